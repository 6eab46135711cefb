"""The current queue and the current attempt: two ContextVars; and a third for who notes new jobs.

The first two are the only way from a running job back to its queue and its attempt, and from
modules of lower layers to both. So their classes are imported for the type checker alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from weakref import WeakSet

from .errors import ConfigError, NotInJob
from .job import Job

if TYPE_CHECKING:
    from .queue import JobQueue
    from .worker.attempt import Attempt

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


queue_var: ContextVar[JobQueue | None] = ContextVar("asyncjob_queue", default=None)
attempt_var: ContextVar[Attempt | None] = ContextVar("asyncjob_attempt", default=None)

#: Called with the jobs of each enqueue in this context; None: nobody notes them.
enqueued_var: ContextVar[Callable[[list[Job]], None] | None] = ContextVar(
    "asyncjob_enqueued", default=None
)

#: Every queue of this process that was made and not closed.
open_queues: WeakSet[JobQueue] = WeakSet()


def current_queue() -> JobQueue:
    """Return the current queue.

    It is the queue of the innermost ``with queue.as_current():``, else that of the application in
    whose context this thread is, else the only open queue.
    Raises ConfigError if there is no such queue, or more than one.
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
        "in Globals.__init__, elsewhere make a JobQueue(), and if there are several, choose one "
        "by `with queue.as_current():` or call its own methods"
    )


@contextmanager
def as_current(queue: JobQueue) -> Iterator[None]:
    """Make *queue* the current one inside the block."""
    token = queue_var.set(queue)
    try:
        yield
    finally:
        queue_var.reset(token)


def current_attempt(function: str) -> Attempt:
    """Return the attempt that runs in this thread.

    Raises NotInJob with the name of *function* outside a job.
    """
    attempt = attempt_var.get()
    if attempt is None:
        raise NotInJob(function)
    return attempt


def shielded(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Delay interruptions of a job that calls *method* until the method has returned."""

    @functools.wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        attempt = attempt_var.get()
        if attempt is None:
            return method(*args, **kwargs)
        with attempt.shield():
            return method(*args, **kwargs)

    return call
