"""What people do with a queue beside enqueueing: look at jobs, pause and resume queues."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

from .backends.base import Backend
from .backends.listing import Cursor, JobFilter, check_limit
from .backends.overview import PausedQueue
from .queue_name import check_queue_name
from .results import Results
from .task_result import TaskResult


class JobPage(NamedTuple):
    """One page of a list of jobs."""

    results: list[TaskResult]
    next: str | None  #: for ``after``, to get the next page; None: this is the last one


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

    def jobs(  # noqa: PLR0913 - each narrows the list
        self,
        status: Any = None,
        name: str | Iterable[str] | None = None,
        queue_name: str | Iterable[str] | None = None,
        user: str | None = None,
        error: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """List jobs, of all processes: those that have not ended, then those that have, the newest
        of each first. On ``memory`` the jobs of this process.

        status: a TaskResultStatus, or several. name: the dotted path of a function, or several.
        queue_name: a name, or several. user: who was logged in at the enqueue. error: the class of
        an error, as ``ValueError`` or with its module; without a status, of jobs that have not
        succeeded and were not cancelled. since, until: aware; when a job has ended, or, if it has
        not, when it was enqueued. after: the ``next`` of a page: go on there. limit: the most jobs
        of a page, up to 1,000. None: do not narrow.
        Raises ConfigError for values that are none of these.
        """
        wanted = JobFilter.of(status, name, queue_name, user, error, since, until)
        return self.page_of(wanted, Cursor.of(after), check_limit(limit))

    def page_of(self, wanted: JobFilter, after: Cursor | None, limit: int) -> JobPage:
        """Return one page of the jobs of a filter; see ``jobs``."""
        found = self.backend.find(wanted, after, limit)
        snapshots = self.backend.get_many(found.uids)
        return JobPage([TaskResult(self.results, each) for each in snapshots], found.next)

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
