"""What people do with a queue beside enqueueing: look at jobs, pause queues, make schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from .amount import is_int
from .backends.audit import Act, AuditRecord
from .backends.base import Backend
from .backends.listing import Cursor, JobFilter, check_limit
from .backends.overview import PausedQueue
from .errors import ConfigError
from .failure_hook import FailureHook, Hook
from .policies import MOST_AT_ONCE
from .queue_name import check_queue_name
from .recurrence import Recurrence
from .results import Results
from .schedule import Schedule, new_schedule
from .task_result import TaskResult


class JobPage(NamedTuple):
    """One page of a list of jobs."""

    results: list[TaskResult]
    next: str | None  #: for ``after``, to get the next page; None: this is the last one


class QueueOperations:
    """The part of a ``JobQueue`` that serves people."""

    results: Results
    failure_hook: FailureHook
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
        """List jobs, of all processes: those that run or wait for a worker, the last enqueued
        first; then those that are delayed, the next due first; then those that have ended, the last
        ended first. On ``memory`` the jobs of this process.

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

    def mine(self, limit: int = 20, status: Any = None) -> list[TaskResult]:
        """Return the jobs of the user of this request; see ``asyncjob_mine``."""
        user = self._user()
        if user is None:
            return []
        found = self.jobs(status, user=user, limit=limit).results
        # A list is by the beginning of a name, and MariaDB takes "ann " for "ann".
        return [each for each in found if each.enqueued_by == user]

    def page_of(self, wanted: JobFilter, after: Cursor | None, limit: int) -> JobPage:
        """Return one page of the jobs of a filter; see ``jobs``."""
        found = self.backend.find(wanted, after, limit)
        snapshots = self.backend.get_many(found.uids)
        return JobPage([TaskResult(self.results, each) for each in snapshots], found.next)

    def on_failure(self, hook: Hook) -> Hook:
        """Declare the function that is called with the ``TaskResult`` of each job that has finally
        FAILED; a decorator, which returns the function.

        It is called at least once, in a worker, by a job of its own that the failure enqueues, for
        60 s at the most and up to 5 times if it raises. Declare it where each process imports it.
        Raises ConfigError for something that cannot be called.
        """
        if not callable(hook):
            raise ConfigError(f"on_failure: expected a function, got {hook!r}")
        self.failure_hook.function = hook
        return hook

    def pause(self, queue_name: str, by: str | None = None) -> bool:
        """Let no worker, in any process, take a job from a queue; False if it was paused before.

        Jobs that run go on, and jobs can be enqueued. Takes effect at once, not with the caller's
        transaction, and lasts until ``resume``. It is recorded with the time and the user of the
        request. by: who does it, for the audit; None: it is not recorded there.
        Raises ConfigError for a name that no queue can have.
        """
        act = None if by is None else Act(by, "program")
        return self.backend.pause(check_queue_name(queue_name), by or self._user(), act)

    def _user(self) -> str | None:
        """The user of the request; None if there is none."""
        captured = None if self._capture is None else self._capture()
        user = (captured or {}).get("user")
        return None if user is None else str(user)

    def resume(self, queue_name: str, by: str | None = None) -> bool:
        """End the pause of a queue; False if it was not paused. by: as for ``pause``."""
        return self.backend.resume(queue_name, None if by is None else Act(by, "program"))

    def limit(self, queue_name: str, most: int | None, by: str | None = None) -> None:
        """Let at most so many jobs of a queue run at once, across all workers; None: no limit.

        Jobs that run go on. Takes effect at once, not with the caller's transaction, and lasts
        until another call. by: as for ``pause``.
        Raises ConfigError for a name that no queue can have, and for a limit that none could keep.
        """
        if most is not None and not (is_int(most) and 0 < most <= MOST_AT_ONCE):
            raise ConfigError(
                f"limit: expected a whole number from 1 to {MOST_AT_ONCE:,}, or None for no limit, "
                f"got {most!r}; to keep jobs from starting use JobQueue.pause()"
            )
        act = None if by is None else Act(by, "program")
        self.backend.limit(check_queue_name(queue_name), most, act)

    def audit(self, before: int | None = None, limit: int = 50) -> list[AuditRecord]:
        """Return what people have done, the last first: in the pages, by commands, and where a
        program has said who does it. On ``memory`` in this process.

        before: the ``number`` of a record: go on there. limit: the most records, up to 1,000.
        Raises ConfigError for a limit that is none.
        """
        return self.backend.audit.page(before, check_limit(limit))

    def paused(self) -> list[PausedQueue]:
        """Return the paused queues, in the order of their names. A PausedQueue has ``queue_name``,
        ``since`` (aware UTC) and ``user`` (None: it was not paused in a request)."""
        return self.backend.paused()

    def schedule(  # noqa: PLR0913 - as fields of a form
        self,
        name: str,
        task: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        cron: str | None = None,
        every: timedelta | None = None,
        timezone: str | None = None,
        catch_up: str | int = "last",
    ) -> Schedule:
        """Enqueue a job by a clock from now on, or change the schedule of this name.

        task: what a job calls: a Task, whose options its jobs have, or any callable that can be
        enqueued. args, kwargs: its arguments. cron, every, timezone, catch_up: as of ``@task``.

        In a managed transaction on the database of the jobs the commit creates the schedule,
        otherwise it exists at once. The next tick stays as it is if the schedule exists and its
        instants do not change, so a process may say this at each start. Jobs run without a user.
        Raises ConfigError, MissingExtra (cron without cronsim), BadCall, NotSerializable.
        """
        recurrence = Recurrence(cron, every, timezone, catch_up)
        new = new_schedule(name, task, args, kwargs, recurrence)
        state = self.results.change(partial(self.backend.schedules.put, new))
        return Schedule(self.results, state, self._user)

    def schedules(self) -> list[Schedule]:
        """Return the schedules of all processes, in the order of their names; on ``memory`` those
        of this process."""
        found = self.backend.schedules.all()
        return [Schedule(self.results, state, self._user) for state in found]
