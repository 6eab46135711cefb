"""A photo album: the sample application of tgext.asyncjob.

Where to look first:
``lib/app_globals.py`` switches background jobs on (one line),
``jobs.py`` has the jobs,
``controllers/root.py`` starts them,
``controllers/job.py`` shows how they go.
"""
