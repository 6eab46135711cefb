"""The kill-soak: real worker processes are killed, stopped and cut off while jobs write rows.

    enqueuer --> database <-- worker, worker, worker ...      processes, each started by the
        ^                        ^                            coordinator, which strikes them
        '------ coordinator -----'                            by a schedule made from a seed

At the end each job must have had its effects exactly once. In the processes: ``place`` (where the
run takes place), ``worker``, ``enqueuer``, ``jobs``, ``kinds`` (what each must leave), ``field``
(the tables), ``journal`` (what a kill does not take back), ``points`` (where a process may strike
itself), ``mutants`` (the library broken on purpose). In the coordinator: ``schedule``, ``crew``
(the processes), ``servers`` (connections cut by the server), ``soak`` (one run), ``verdict``,
``rescue``, ``report``.
"""
