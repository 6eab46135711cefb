"""The current queue and the current attempt: two ContextVars.

The only way from a running job back to the queue and the worker. Modules of lower layers know a
queue and an attempt by the Protocols below.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import WeakSet

from .call import Call
from .errors import ConfigError, NotInJob
from .job import JobId, Progress, Snapshot, TaskOptions

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class CurrentQueue(Protocol):
    """What tasks and the ``asyncjob_*`` functions ask of a queue."""

    def perform(self, callable: Callable[..., Any], /, *args: Any, **kwargs: Any) -> str: ...
    def enqueue(
        self, call: Call, options: TaskOptions, run_after: datetime | timedelta | None
    ) -> Any: ...
    def result(self, uid: str) -> Any: ...
    def progress(self, uid: str) -> tuple[int, Any] | None: ...
    def wait_for_row(self, query: Any, looks: float, seconds: float) -> None: ...
    def session_scope(self) -> AbstractContextManager[Any]: ...
    def is_here(self) -> bool | None: ...


class JobResults(Protocol):
    """What a TaskResult asks of ``results.py``."""

    def snapshot(self, uid: str) -> Snapshot: ...
    def wait_for_end(self, uid: str, timeout: float | None) -> Snapshot: ...
    def cancel(self, uid: str) -> bool: ...
    def retry(self, uid: str) -> bool: ...


class CurrentAttempt(Protocol):
    """What a job's own code asks of the attempt it runs in."""

    #: the last error of a database that it has met, whether or not the job swallowed it
    database_error: BaseException | None

    @property
    def uid(self) -> JobId: ...
    def report(self, progress: Progress) -> None: ...
    def checkpoint(self) -> None: ...
    def pause(self, seconds: float) -> None: ...
    def cancel(self) -> bool: ...
    @property
    def session(self) -> Any: ...
    def log_line(self, line: str) -> None: ...
    @property
    def connections(self) -> tuple[Any, ...]: ...
    def track_connection(self, connection: Any, session: Any) -> None: ...
    def before_commit(self, connection: Any, *, by_statement: bool = False) -> None: ...
    def shield(self) -> AbstractContextManager[None]: ...


queue_var: ContextVar[CurrentQueue | None] = ContextVar("asyncjob_queue", default=None)
attempt_var: ContextVar[CurrentAttempt | None] = ContextVar("asyncjob_attempt", default=None)

#: Every queue of this process that was made and not closed.
open_queues: WeakSet[CurrentQueue] = WeakSet()


def current_queue() -> CurrentQueue:
    """Return the innermost ``with queue.as_current():``, else that of the application in whose
    context this thread is, else the only open queue.

    Raises ConfigError where there is none, or more than one to choose from, or none but those of
    other applications than this thread's.
    """
    queue = queue_var.get()
    if queue is not None:
        return queue
    open_ones = [(each.is_here(), each) for each in open_queues]
    queues = [each for here, each in open_ones if here]
    queues = queues or [each for here, each in open_ones if here is None]
    if len(queues) == 1:
        return queues[0]
    found = "none is open" if not queues else f"{len(queues)} are open in this process"
    if open_ones and not queues:
        found = "the application of this thread's context has none"
    raise ConfigError(
        f"expected one current job queue, but {found}; in TurboGears call start_async_worker() "
        "in Globals.__init__, elsewhere make a JobQueue(), and where there are several, name one "
        "by `with queue.as_current():` or call its own methods"
    )


@contextmanager
def as_current(queue: CurrentQueue) -> Iterator[None]:
    """Make *queue* the current one inside the block."""
    token = queue_var.set(queue)
    try:
        yield
    finally:
        queue_var.reset(token)


def current_attempt(function: str) -> CurrentAttempt:
    """Return the attempt that runs here; raises NotInJob in the name of *function*."""
    attempt = attempt_var.get()
    if attempt is None:
        raise NotInJob(function)
    return attempt


def shielded(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """If a job calls *method*, delay interruptions of that job until it has returned."""

    @functools.wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        attempt = attempt_var.get()
        if attempt is None:
            return method(*args, **kwargs)
        with attempt.shield():
            return method(*args, **kwargs)

    return call
