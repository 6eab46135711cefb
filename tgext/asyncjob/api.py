"""The ``asyncjob_*`` functions, which act on the current queue or attempt.

There are three ways to enqueue a job: ``asyncjob_perform(f, ...)`` for any callable returns the
uid; ``task.enqueue(...)`` for a declared task returns the TaskResult; ``queue.perform(...)`` works
without a current queue. ``asyncjob_result(uid)`` returns the TaskResult of a uid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from .amount import is_int, seconds, whole
from .current import attempt_var, current_attempt, current_queue
from .errors import BadCall, ConfigError, NotSerializable
from .job import Progress
from .task_result import TaskResult

#: Digits of a number that is too large, for its error.
LONGEST_NUMBER = 40

Item = TypeVar("Item")
AnyQuery = TypeVar("AnyQuery")


def asyncjob_perform(callable: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
    """Enqueue a call of *callable* with these arguments, and return the job's uid at once.

    Inside a request the job is created by the commit of the request's transaction. If the
    transaction is aborted, the job never exists. Outside a transaction the job exists at once.

    callable: a function, or anything else that can be called; every other argument is its own.
    Raises BadCall if the arguments do not fit its signature, NotSerializable if an argument cannot
    be stored (a database object never can), QueueFull if ``max_queued`` jobs wait, QueueClosed
    after ``close()``, and ConfigError if there is no current queue.
    """
    return current_queue().perform(callable, *args, **kwargs)


def asyncjob_set_progress(value: int, data: Any = None, total: int | None = None) -> None:
    """Report the progress of the running job. Each call is a checkpoint.

    value: how much is done, an int.
    data: a value to show with it, such as a text or a dict; on ``sql`` one that a row can hold.
    total: the *value* at which the job will be done, an int; None if it is unknown.
    Raises NotInJob outside a job, BadCall for a value or total that is not an int, NotSerializable
    for one of more than 64 bits, and for data that a row of the database cannot hold, and
    JobCancelled if the job was cancelled.
    """
    attempt = current_attempt("asyncjob_set_progress")
    total = None if total is None else _whole("total", total)
    attempt.report(Progress(_whole("value", value), data, total))


def asyncjob_get_progress(uid: str) -> tuple[int, Any] | None:
    """Return ``(value, data)`` of the job's last report.

    The result is ``(-1, None)`` before the first report. It is None if the job has ended, whatever
    its status, and if the uid is unknown; ``asyncjob_result`` distinguishes these cases.
    Raises UnknownJob, on the memory backend, for a uid that another process made.
    """
    return current_queue().progress(uid)


def asyncjob_running_uid() -> str | None:
    """Return the uid of the job that is running in this thread; None outside a job."""
    attempt = attempt_var.get()
    return None if attempt is None else attempt.uid


def asyncjob_result(uid: str) -> TaskResult:
    """Return the TaskResult of a job.

    Raises UnknownJob for an unknown uid, and ConfigError if there is no current queue.
    """
    return current_queue().result(uid)


def asyncjob_mine(limit: int = 20, status: Any = None) -> list[TaskResult]:
    """Return the jobs that the user of this request has enqueued: those that have not ended, then
    those that have, the newest of each first. [] if nobody is logged in.

    Inside a job the user is the one who has enqueued it. A job that the transaction of this thread
    has enqueued is there after its commit.

    limit: the most jobs, up to 1,000. status: a TaskResultStatus, or several; None: any.
    Raises ConfigError for values that are none of these, and if there is no current queue.
    """
    return current_queue().mine(limit, status)


def asyncjob_track(iterable: Iterable[Item], total: int | None = None) -> Iterator[Item]:
    """Iterate over *iterable*, and report after each item how many are done, out of *total*.

    Each item is a checkpoint: a cancellation, a timeout or a drain takes effect there. Outside a
    job nothing is reported.

    total: the number of items, an int; None: ``len(iterable)``, or unknown if it has no length.
    Raises BadCall for a total that is not an int, NotSerializable for one of more than 64 bits.
    """
    total = _length(iterable) if total is None else _whole("total", total, "asyncjob_track")
    attempt = attempt_var.get()
    if attempt is None:
        yield from iterable
        return
    attempt.report(Progress(0, None, total))
    for done, item in enumerate(iterable, 1):
        yield item
        attempt.report(Progress(done, None, total))


def asyncjob_session() -> Any:
    """Return the session of the running job, whose commit also completes the job.

    It is the queue's ``session``, in TurboGears the application's DBSession.
    Raises NotInJob outside a job, and ConfigError if the queue has no session.
    """
    session = current_attempt("asyncjob_session").session
    if session is None:
        raise ConfigError(
            "asyncjob_session(): expected a queue with a session, and this one has none; make it "
            "with JobQueue(session=DBSession)"
        )
    return session


def asyncjob_timed_query(query: AnyQuery, retries: int = 10, interval: float = 6) -> AnyQuery:
    """Wait until *query* has a row, and return the query.

    The query is executed at once, and then again every *interval* seconds, up to *retries* times
    (60 s by default). It is returned also if it has no row by then.

    query: a legacy ``Query``, or a ``select()``, which is executed in the queue's session.
    retries: how often to execute it again. interval: seconds.
    Raises BadCall for another query, for retries that are not a whole number, and for an interval
    that is not a number.
    """
    pause = seconds("interval", interval)
    current_queue().wait_for_row(query, whole("retries", retries), pause)
    return query


def _whole(name: str, value: object, function: str = "asyncjob_set_progress") -> int:
    if not is_int(value):
        raise BadCall(f"{function}: expected {name} to be an int, got {value!r}")
    if not -(2**63) <= value < 2**63:  # also for a page: Python does not write every number
        raise NotSerializable(
            f"{function}: expected a {name} of at most 64 bits, got {_shortly(value)}; report it "
            "in a larger unit"
        )
    return value


def _shortly(number: int) -> str:
    text = f"{number:#x}"
    return text if len(text) <= LONGEST_NUMBER else f"{text[:LONGEST_NUMBER]}..."


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        return None
