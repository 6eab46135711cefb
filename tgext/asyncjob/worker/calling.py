"""Make the call of an attempt, in this thread or by its task's executor, and wait for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import Context
from typing import Any

from ..call import PLAIN, Call
from ..job import Claim
from ..processes.forked import call_here, only_here
from ..task import TaskContext
from ..task_result import TaskResult
from .interruption import Interruptible

#: ``submit`` of the standard library's pools. They do not check for forks: a child that a call
#: forks would continue as a thread or process of the pool.
_OF_POOLS = (ThreadPoolExecutor.submit, ProcessPoolExecutor.submit)


@only_here
def make_call(
    claim: Claim,
    running: Interruptible,
    result_of: Callable[[str], TaskResult],
    checkpoint: Callable[[], None],
) -> Any:
    """Return the result of the call of *claim*, or raise what it raises.

    running: the Interruptible that runs this function. result_of: returns the TaskResult of a uid.
    checkpoint: called while it waits; raises what is to end the attempt.
    """
    call, options = claim.job.call, claim.job.options
    args = call.args
    if options.takes_context:
        args = (TaskContext(result_of(claim.job.uid), claim.attempt), *args)
    if not isinstance(options.executor, str):
        value = running.wait_for(_submitted(options.executor, call, args), checkpoint)
    else:
        value = call.target(*args, **call.kwargs) if call.kwargs else call.target(*args)
    return value if type(value) in PLAIN else running.resolve(value, checkpoint)


def _submitted(executor: Executor, call: Call, args: tuple[Any, ...]) -> Future[Any]:
    """Submit the call to an executor, without the context of the job: its session belongs to this
    thread."""
    submit: Any = executor.submit
    kwargs = call.kwargs or {}
    if getattr(submit, "__func__", None) in _OF_POOLS:
        made: Future[Any] = Context().run(submit, call_here, call.target, args, kwargs)
        return made
    return Context().run(submit, call.target, *args, **kwargs)
