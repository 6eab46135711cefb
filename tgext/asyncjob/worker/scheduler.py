"""Declares the schedules of this process's tasks, and calls the backend when a tick is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..backends.schedules import NewSchedule, ScheduleStore
from ..call import Call
from ..task import scheduled_tasks

log = logging.getLogger(__name__)

#: Seconds between looks for tasks that were imported meanwhile. So often other processes learn,
#: too, that the schedules of these tasks are declared.
DECLARE_SECONDS = 60.0

#: Seconds between calls of the backend while ticks stay due: another worker may enqueue their jobs,
#: or the store refuses to.
REST_SECONDS = 1.5


class Scheduler:
    """For one thread. wake: called, from any thread, when ``due_at`` may have become earlier."""

    def __init__(self, schedules: ScheduleStore, wake: Callable[[], object] | None = None) -> None:
        self._schedules = schedules
        if wake is not None:
            schedules.wake = wake
        self._declare_at = self._rest_until = time.monotonic()

    @property
    def due_at(self) -> float:
        """When ``run`` has to be called, by ``time.monotonic()``."""
        return min(self._declare_at, max(self._schedules.due_at(), self._rest_until))

    def run(self) -> None:
        """Do what is due; raises what the backend raises, and goes on at the next call."""
        now = time.monotonic()
        if now >= self._declare_at:
            self._declare_at = now + REST_SECONDS  # should it fail
            self.declare()
            self._declare_at = now + DECLARE_SECONDS
        if now >= max(self._schedules.due_at(), self._rest_until):
            self._rest_until = now + REST_SECONDS
            self._schedules.fire()
            if self._schedules.due_at() > time.monotonic():
                self._rest_until = now

    def declare(self) -> None:
        """Declare the schedules of the tasks that this process has imported."""
        self._schedules.declare(
            [
                NewSchedule(task.name, Call(task.func, (), None), task, task.recurrence, True)
                for task in scheduled_tasks()
                if task.recurrence is not None
            ]
        )
