"""Attempts in child processes, for ``@task(executor="process")``.

    worker thread --- SubprocessAttempt ==channel==> child: scope, call, completion, commit
                            |                          ^
                            '-- requests --> fork server: fork, wait, kill

A child process runs one attempt and ends. It is forked from the *fork server*, a process that has
one thread, the application as it was loaded, and no open connection. So no lock that a thread of
the worker holds is copied, and the death of a child affects no other job.

``fork_server`` starts the children, ``attempt`` is the worker's side of one, ``child`` the child's
side, ``messages`` the format of what the two send each other.
"""

from __future__ import annotations

from collections.abc import Callable

from ...job import Claim
from ..attempt import Attempt
from ..environment import AttemptEnvironment
from .attempt import SubprocessAttempt
from .child import ParentChannel
from .fork_server import ForkServer
from .messages import check_picklable, has_process_tasks

__all__ = ["ForkServer", "ParentChannel", "check_picklable", "has_process_tasks", "make_attempt"]


def make_attempt(
    claim: Claim, environment: AttemptEnvironment, is_stopping: Callable[[], bool]
) -> Attempt:
    """Make the attempt of a claimed job, for this thread or for a child process, as its task says.

    is_stopping: whether its worker stops.
    """
    if claim.job.options.executor == "process":
        return SubprocessAttempt(claim, environment, is_stopping)
    return Attempt(claim, environment)
