"""What an enqueue adds to a request of application.py, in seconds an enqueue.

Imported only in a process whose environment has TurboGears2.
"""

import gc
import statistics

from application import Application, application
from jobs import GATE, TALLY


def held_seconds(jobs: int, requests: int) -> float:
    """Measure with the worker held: the enqueue and nothing else.

    The difference of two medians, of *requests* with the enqueues and as many without, one of
    each in turn.
    """
    app = _warm()
    GATE.close()
    TALLY.expect(jobs * requests)
    app.get("/hold")
    with_jobs, without = [], []
    try:
        GATE.wait_for(1)
        gc.collect()
        for _ in range(requests):
            without.append(app.get("/"))
            with_jobs.append(app.get(f"/?jobs={jobs}"))
    finally:
        GATE.open()
    TALLY.wait()
    return (statistics.median(with_jobs) - statistics.median(without)) / jobs


def running_seconds(jobs: int, requests: int) -> float:
    """Measure with the worker running, as a busy server does: request after request.

    The difference of what *requests* take with the enqueues and without, so that the requests
    pay for the interpreter's turns of the worker too. Those without are measured before and
    after, with nothing left to run.
    """
    app = _warm()
    before = _stream(app, "/", requests)
    TALLY.expect(jobs * requests)
    with_jobs = _stream(app, f"/?jobs={jobs}", requests)
    TALLY.wait()
    after = _stream(app, "/", requests)
    return (with_jobs - (before + after) / 2) / (jobs * requests)


def _warm() -> Application:
    app = application()
    TALLY.expect(1)
    app.get("/?jobs=1")  # starts the worker where it starts with the first job
    TALLY.wait()
    _stream(app, "/", 20)
    return app


def _stream(app: Application, path: str, requests: int) -> float:
    gc.collect()
    return sum(app.get(path) for _ in range(requests))
