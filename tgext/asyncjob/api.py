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
from .errors import BadCall, ConfigError
from .job import Progress
from .task import TaskResult

Item = TypeVar("Item")
AnyQuery = TypeVar("AnyQuery")


def asyncjob_perform(callable: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str:
    """Run *callable* with these arguments in the background; return the job's uid at once.

    Inside a request the job begins to exist with the commit of the request's transaction, and
    never does if that is aborted. Every keyword belongs to the callable.
    Raises BadCall if the arguments do not fit, NotSerializable for a database object among
    them, QueueFull, ConfigError where no queue is current.
    """
    return current_queue().perform(callable, *args, **kwargs)


def asyncjob_set_progress(value: int, data: Any = None, total: int | None = None) -> None:
    """Report how far the running job is; a checkpoint, too.

    value: a whole number. data: anything that JSON holds. total: the *value* at which the job
    will be done, if known.
    Raises NotInJob outside a job, BadCall for a value or total that is no int, JobCancelled.
    """
    attempt = current_attempt("asyncjob_set_progress")
    total = None if total is None else _whole("total", total)
    attempt.report(Progress(_whole("value", value), data, total))


def asyncjob_get_progress(uid: str) -> tuple[int, Any] | None:
    """Return ``(value, data)`` as the job last reported them.

    ``(-1, None)`` while it has not begun or reported nothing; None once it has ended, however
    it ended, or when nothing is known of it (any more): ``asyncjob_result`` tells these apart.
    Raises UnknownJob, on the memory backend, for a uid that another process made.
    """
    return current_queue().progress(uid)


def asyncjob_running_uid() -> str | None:
    """Return the uid of the job that this code runs in, None outside one."""
    attempt = attempt_var.get()
    return None if attempt is None else attempt.uid


def asyncjob_result(uid: str) -> TaskResult:
    """Return the TaskResult of a job; raises UnknownJob for an unknown uid."""
    return current_queue().result(uid)


def asyncjob_track(iterable: Iterable[Item], total: int | None = None) -> Iterator[Item]:
    """Iterate over *iterable* and report after each item how many are done, out of *total*.

    total: None: ``len(iterable)`` where it has one.
    A point at which a cancellation, a timeout and a drain take effect. Outside a job it only
    iterates. Raises BadCall for a total that is no int.
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
    """Return the session of this attempt: the one whose commit completes the job.

    In TurboGears that is the application's DBSession.
    Raises NotInJob outside a job, ConfigError in an application without a session.
    """
    session = current_attempt("asyncjob_session").session
    if session is None:
        raise ConfigError(
            "asyncjob_session(): expected a queue with a session, and this one has none; make it "
            "with JobQueue(session=DBSession)"
        )
    return session


def asyncjob_timed_query(query: AnyQuery, retries: int = 10, interval: float = 6) -> AnyQuery:
    """Wait until *query* finds something, and return it.

    Looks at once, then every *interval* seconds, *retries* times at the most (60 s by default);
    returns the query then too.
    query: a legacy ``Query``, or a ``select()``, which runs in the queue's session.
    Raises BadCall for anything else.
    """
    pause = seconds("interval", interval)
    current_queue().wait_for_row(query, whole("retries", retries), pause)
    return query


def _whole(name: str, value: object, function: str = "asyncjob_set_progress") -> int:
    if not is_int(value):
        raise BadCall(f"{function}: expected {name} to be an int, got {value!r}")
    return value


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        return None
