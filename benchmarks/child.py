"""Measure one contender in this process: a question a line comes in, an answer a line goes out.

Started by children.py, with the Python of the contender's environment. A measurement that
takes too long ends the process with a traceback of its threads.
"""

from collections.abc import Callable

# Not used here: what an application has loaded, whichever queue it uses. The garbage collector
# looks through all of it, so contenders are comparable only with the same on the heap.
import sqlalchemy.orm  # noqa: F401
import zope.sqlalchemy  # noqa: F401

import measures
from answers import answer_all

#: one measurement; the slowest takes some seconds
MEASUREMENT_SECONDS = 150.0


def held_seconds(jobs: int, requests: int) -> float:
    """Ask overhead.py, which is imported late: not every environment has TurboGears2."""
    import overhead

    return overhead.held_seconds(jobs, requests)


def running_seconds(jobs: int, requests: int) -> float:
    """Ask overhead.py, as above."""
    import overhead

    return overhead.running_seconds(jobs, requests)


MEASURES: dict[str, Callable[..., float]] = {
    "run": measures.run_seconds,
    "dropped": measures.dropped_seconds,
    "idle": measures.idle_microseconds,
    "enqueue": measures.enqueue_seconds,
    "memory": measures.queued_bytes,
    "request held": held_seconds,
    "request running": running_seconds,
}


if __name__ == "__main__":
    answer_all(MEASURES, MEASUREMENT_SECONDS)
