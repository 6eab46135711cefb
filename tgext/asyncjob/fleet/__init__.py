"""Runs jobs in the processes of ``celery worker``: the receiving side of ``wakeups``.

    broker --> parent (Celery) --> a thread of Celery, in a child --> claim, run (worker/hosted.py)

The parent knows settings only, and neither loads the application nor opens its database. Each child
loads it once, and is a worker like any other from then on.
"""
