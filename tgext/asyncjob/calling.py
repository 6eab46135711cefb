"""Make the call of an attempt, here or by the executor of its task, and wait for its work."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

from .call import PLAIN
from .forked import only_here
from .interruption import Interruptible
from .job import Claim
from .task import TaskContext, TaskResult


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
        # Nothing of the job goes along: its session belongs to this thread.
        future = Context().run(options.executor.submit, call.target, *args, **call.kwargs or {})
        value = running.wait_for(future, checkpoint)
    else:
        value = call.target(*args, **call.kwargs) if call.kwargs else call.target(*args)
    return value if type(value) in PLAIN else running.settle(value, checkpoint)
