"""Counts the jobs of this process as they end.

Nothing here takes a lock: the backend counts with its lock held, and readers copy first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from ...call import Call
from ...job import FAILED, SUCCESSFUL
from ...task_options import TaskOptions
from ..statistics import (
    BOUNDS,
    LEAST_KEPT,
    MINUTE,
    MOST_NAMES,
    OTHERS,
    Counts,
    Statistics,
    minute_of,
    most_frequent,
)
from .entry import Entry


class MemoryStatistics(Statistics):
    """See ``Statistics``. clock: returns seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: by minutes, and by names of tasks and queues
        self._minutes: dict[int, dict[tuple[str, str], Counts]] = {}
        self._forget_last()

    def _forget_last(self) -> None:
        """Forget where the last job was counted: most are counted where the one before was."""
        self._last_target: object = None
        self._last_options: object = None
        self._last = Counts()
        self._begin = self._end = 0.0

    def count(self, entry: Entry) -> None:
        """Count a job that has just ended."""
        at = entry.finished_at or 0.0
        call, options = entry.job.call, entry.job.options
        if (
            call.target is self._last_target
            and options is self._last_options
            and self._begin <= at < self._end
        ):
            counts = self._last
        else:
            counts = self._find(at, call, options)
        started, attempts = entry.started_at, entry.attempts
        if started is not None:
            counts.started += 1
            if started > entry.enqueued_at:
                counts.waited_seconds += started - entry.enqueued_at
            if attempts > 1:
                counts.retried += 1
        status = entry.status
        if status is SUCCESSFUL:
            counts.done += 1
        elif status is FAILED:
            counts.failed += 1
        else:
            counts.cancelled += 1
            return
        ran = at - (entry.last_attempted_at or at)
        if ran > 0:
            counts.ran_seconds += ran
        counts.took[bisect_right(BOUNDS, ran)] += 1

    def _find(self, at: float, call: Call, options: TaskOptions) -> Counts:
        minute = minute_of(at)
        if minute not in self._minutes:
            self.prune()  # where only run_pending() runs jobs there is no maintenance
        names = self._minutes.setdefault(minute, {})
        name = (call.name, options.queue_name)
        if name not in names and len(names) >= MOST_NAMES:
            name = OTHERS
        self._last = counts = names.setdefault(name, Counts())
        self._last_target, self._last_options = call.target, options
        self._begin, self._end = float(minute * MINUTE), float((minute + 1) * MINUTE)
        return counts

    def collect(self) -> bool:
        return False  # counted as they end

    def prune(self) -> None:
        """Forget the minutes that are no longer kept; called with the lock."""
        self._forget_last()  # it may keep an object of the application alive
        before = minute_of(self._clock()) - LEAST_KEPT
        for minute in [each for each in self._minutes if each < before]:
            del self._minutes[minute]

    def series(self, since: int, step: int) -> dict[int, Counts]:
        found: dict[int, Counts] = {}
        for minute, names in sorted(self._minutes.copy().items()):
            if minute >= since:
                into = found.setdefault(minute - minute % step, Counts())
                for counts in names.copy().values():
                    into.add(counts)
        return found

    def by_task(self, since: int, limit: int) -> list[tuple[str, Counts]]:
        found: dict[str, Counts] = {}
        for minute, names in self._minutes.copy().items():
            if minute >= since:
                for (task_name, _queue), counts in names.copy().items():
                    found.setdefault(task_name, Counts()).add(counts)
        return most_frequent(found, limit)
