"""What people do with a queue beside enqueueing: look at jobs, pause and resume queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .backends.base import Backend
from .backends.overview import PausedQueue
from .queue_name import check_queue_name
from .results import Results
from .task import TaskResult


class QueueOperations:
    """The part of a ``JobQueue`` that serves people."""

    results: Results
    _capture: Callable[[], dict[str, Any] | None] | None

    @property
    def backend(self) -> Backend:
        raise NotImplementedError

    def result(self, uid: str) -> TaskResult:
        """Return the TaskResult of the job *uid*. Raises UnknownJob if there is none."""
        return TaskResult(self.results, self.results.snapshot(uid))

    def pause(self, queue_name: str) -> bool:
        """Let no worker, in any process, take a job from a queue; False if it was paused before.

        Jobs that run go on, and jobs can be enqueued. Takes effect at once, not with the caller's
        transaction, and lasts until ``resume``. It is recorded with the time and the user of the
        request. Raises ConfigError for a name that no queue can have.
        """
        captured = None if self._capture is None else self._capture()
        user = (captured or {}).get("user")
        return self.backend.pause(check_queue_name(queue_name), None if user is None else str(user))

    def resume(self, queue_name: str) -> bool:
        """End the pause of a queue; False if it was not paused."""
        return self.backend.resume(queue_name)

    def paused(self) -> list[PausedQueue]:
        """Return the paused queues, in the order of their names. A PausedQueue has ``queue_name``,
        ``since`` (aware UTC) and ``user`` (None: it was not paused in a request)."""
        return self.backend.paused()
