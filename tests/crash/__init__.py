"""The kill-soak: real worker processes are killed, stopped and cut off while jobs write rows.

    enqueuer --> proxy --> database <-- proxy <-- worker, worker, worker ...      processes
        ^                     ^                      ^
        '---------------- coordinator ---------------'       strikes all of them by a schedule

At the end each job must have had its effects exactly once. In the processes: ``place`` (where the
run takes place), ``worker``, ``enqueuer``, ``jobs``, ``kinds`` (what each must leave), ``field``
(the tables), ``journal`` (what a kill does not take back), ``points`` (where a process may strike
itself), ``mutants`` (the library broken on purpose). In the coordinator: ``schedule``,
``processes``, ``servers`` (the database of the run, and what it does), ``proxy`` (answers of
commits that are lost on the way), ``soak`` (one run), ``verdict``, ``rescue``, ``report``.
"""
