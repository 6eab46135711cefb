"""Make the call of an attempt, here or by the executor of its task, and wait for its work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import Context
from typing import Any

from ..call import PLAIN, Call
from ..job import Claim
from ..processes.forked import call_here, only_here
from ..task import TaskContext, TaskResult
from .interruption import Interruptible

#: How the standard library's pools take a call. Theirs do not look at it, and a child that it
#: forks would go on as a thread or process of the pool.
_OF_POOLS = (ThreadPoolExecutor.submit, ProcessPoolExecutor.submit)


@only_here
def make_call(
    claim: Claim,
    running: Interruptible,
    result_of: Callable[[str], TaskResult],
    checkpoint: Callable[[], None],
) -> Any:
    """Return what the call of *claim* comes to, or raise what it raises.

    running: what runs this. result_of: gives the job's TaskResult. checkpoint: raises what is to
    end the attempt while it waits.
    """
    _, call, options, *_ = claim.job
    args = call.args
    if options.takes_context:
        args = (TaskContext(result_of(claim.job.uid), claim.attempt), *args)
    if not isinstance(options.executor, str):
        value = running.wait_for(_submitted(options.executor, call, args), checkpoint)
    else:
        value = call.target(*args, **call.kwargs) if call.kwargs else call.target(*args)
    return value if type(value) in PLAIN else running.resolve(value, checkpoint)


def _submitted(executor: Executor, call: Call, args: tuple[Any, ...]) -> Future[Any]:
    """Hand the call to an executor. Nothing of the job goes along: its session belongs to this
    thread."""
    submit: Any = executor.submit
    kwargs = call.kwargs or {}
    if getattr(submit, "__func__", None) in _OF_POOLS:
        made: Future[Any] = Context().run(submit, call_here, call.target, args, kwargs)
        return made
    return Context().run(submit, call.target, *args, **kwargs)
