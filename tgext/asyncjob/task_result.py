"""``TaskResult``, one job, which is read again only in ``refresh`` and ``wait``.

Names and meanings are those of the Django 6 Tasks API where it has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .call import why_not_kept
from .errors import NotSerializable
from .job import Progress, Snapshot, TaskError, TaskResultStatus
from .json_form import json_form
from .sharing import user_of

if TYPE_CHECKING:
    from .results import Results


class TaskResult:
    """One job, in the state in which it was last read: by ``enqueue``, ``refresh`` or ``wait``.

    Instants are aware datetimes in UTC; None as long as the event has not happened.
    """

    __slots__ = ("_is_duplicate", "_results", "_snapshot")

    def __init__(self, results: Results, snapshot: Snapshot, is_duplicate: bool = False) -> None:
        self._is_duplicate = is_duplicate
        self._results = results
        self._snapshot = snapshot

    @property
    def id(self) -> str:
        """The uid of the job."""
        return self._snapshot.job.uid

    @property
    def name(self) -> str:
        """The dotted path of the function that the job calls."""
        return self._snapshot.job.call.name

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments.

        On ``sql`` they are read from the row at the first access. That raises BadSignature or
        another AsyncJobError if the stored call cannot be read in this process.
        """
        return self._snapshot.job.call.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, as a new dict; see ``args``."""
        return dict(self._snapshot.job.call.kwargs or {})

    @property
    def status(self) -> TaskResultStatus:
        """READY, RUNNING, SUCCESSFUL, FAILED or CANCELLED; also a str."""
        return self._snapshot.status

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended: SUCCESSFUL, FAILED or CANCELLED."""
        return self._snapshot.status.is_final

    @property
    def is_duplicate(self) -> bool:
        """Whether this is the job of an earlier enqueue: the task is ``unique`` or coalesced, and
        another job had the key. Of two transactions at once the one that is committed later gives
        way after its commit: ``refresh`` shows it."""
        return self._is_duplicate or self._snapshot.is_duplicate

    @property
    def enqueued_at(self) -> datetime:
        """When the job was enqueued."""
        return self._snapshot.enqueued_at

    @property
    def started_at(self) -> datetime | None:
        """When the first attempt began."""
        return self._snapshot.started_at

    @property
    def last_attempted_at(self) -> datetime | None:
        """When the last attempt began."""
        return self._snapshot.last_attempted_at

    @property
    def finished_at(self) -> datetime | None:
        """When the job ended."""
        return self._snapshot.finished_at

    @property
    def attempts(self) -> int:
        """How many attempts have begun, including those before a ``retry()``."""
        return self._snapshot.attempts

    @property
    def errors(self) -> list[TaskError]:
        """A TaskError for each attempt that raised or timed out, or whose worker died; oldest
        first."""
        return list(self._snapshot.errors)

    @property
    def progress(self) -> Progress:
        """The last report, ``(value, data, total)``; ``(-1, None, None)`` before the first one."""
        return self._snapshot.progress

    @property
    def log(self) -> list[str]:
        """The last 100 log lines of the last attempt that has ended."""
        return list(self._snapshot.log)

    @property
    def enqueued_by(self) -> str | None:
        """The user who was logged in when the job was enqueued; None if there was none, or no
        request."""
        return user_of(self._snapshot.job.context)

    @property
    def return_value(self) -> Any:
        """The return value of the function.

        Raises ValueError unless the job is SUCCESSFUL, and NotSerializable if the value could not
        be stored.
        """
        status = self.status
        if status is not TaskResultStatus.SUCCESSFUL:
            raise ValueError(f"job {self.id!r} has no return value: it is {status}")
        value = self._snapshot.result
        if isinstance(value, NotKept):
            raise NotSerializable(f"the return value of job {self.id!r} was not kept: {value.why}")
        return value

    def explain(self, workers: bool = False) -> list[str]:
        """Return sentences that say why the job does not run now: it is delayed, its queue is
        paused, other jobs are before it. Empty exactly if the next claim by a worker that serves
        its queue would take it.

        workers: whether to say also where no worker serves its queue, or all are busy.
        Raises UnknownJob if the job was removed meanwhile.
        """
        return self._results.explain(self.id, workers=workers)

    def queue_position(self) -> int | None:
        """Return how many jobs of its queue a worker would take before this one: an estimate, and
        1,000 for more. None if the job does not wait, or is delayed."""
        return self._results.queue_position(self.id)

    def refresh(self) -> None:
        """Read the job again. Raises UnknownJob if it was removed meanwhile."""
        self._snapshot = self._results.snapshot(self.id)

    def wait(self, timeout: float | None = None) -> TaskResult:
        """Wait until the job has ended, and return this TaskResult, refreshed.

        timeout: seconds; None: no limit.
        Raises TimeoutError if the job has not ended by then, NotCommitted if the transaction of
        this thread has enqueued the job and is not committed, BadCall for a timeout that is not a
        number, and UnknownJob if the job was removed meanwhile.
        """
        self._snapshot = self._results.wait_for_end(self.id, timeout)
        return self

    def cancel(self, by: str | None = None) -> bool:
        """Cancel the job: a waiting one at once, a running one at its next checkpoint.

        by: who does it, for the audit; None: it is not recorded.
        Returns False if it has ended, or is just being committed. Does not refresh this TaskResult.
        Raises UnknownJob if the job was removed meanwhile.
        """
        return self._results.cancel(self.id, by)

    def retry(self, by: str | None = None) -> bool:
        """Enqueue an ended job again, with a new budget of attempts; its errors are kept.

        by: as for ``cancel``.
        Returns False if it has not ended. Does not refresh this TaskResult.
        Raises UnknownJob if the job was removed meanwhile.
        """
        return self._results.retry(self.id, by)

    def __json__(self) -> dict[str, Any]:
        """Return what a page needs, for ``@expose('json')``; neither arguments nor a traceback.

        Keys: ``id``, ``name``, ``status``, ``progress``, ``percent``, ``eta_seconds``, ``error``,
        ``attempts``, ``enqueued_at``, ``started_at``, ``last_attempted_at``, ``finished_at``. All
        values are such that JSON can represent them.
        """
        error = self._snapshot.errors[-1] if self._snapshot.errors else None
        found = {
            "id": self.id,
            "name": self.name,
            "status": self.status.value,
            "progress": self.progress._asdict(),
            "percent": percent_of(self.status, self.progress.value, self.progress.total),
            "eta_seconds": self._snapshot.eta_seconds,
            "error": error and {"class": error.exception_class_path, "message": error.message},
            "attempts": self.attempts,
            "enqueued_at": self.enqueued_at,
            "started_at": self.started_at,
            "last_attempted_at": self.last_attempted_at,
            "finished_at": self.finished_at,
        }
        return {name: json_form(value) for name, value in found.items()}

    def __repr__(self) -> str:
        return f"<TaskResult {self.id} {self.name} {self.status}>"


def percent_of(status: TaskResultStatus, value: int, total: int | None) -> int | None:
    """Return how far a job is, from 0 to 100, by its last report; None: not known."""
    if status is TaskResultStatus.SUCCESSFUL:
        return 100
    if value < 0 or total is None or total <= 0:
        return None
    return min(100 * value // total, 100)


@dataclass(frozen=True, slots=True)
class NotKept:
    """Stands for a return value that could not be kept."""

    why: str  #: the reason


def kept(result: Any) -> Any:
    """Return *result*, or a NotKept if it cannot be used after the attempt."""
    why = why_not_kept(result)
    return result if why is None else NotKept(why)
