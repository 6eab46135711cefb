"""Attempts in processes of their own: what ``@task(executor="process")`` asks for.

    worker thread --- SubprocessAttempt ==channel==> child: scope, call, completion, commit
                            |                          ^
                            '-- requests --> fork server: fork, wait, kill

A child process runs one attempt and ends. It is forked from the *fork server*, a process that has
one thread, the application as it was loaded, and nothing open. So no lock that some thread of the
worker holds is copied, and a process that dies or is killed takes nothing along.

``fork_server`` starts the children, ``attempt`` is the worker's side of one, ``child`` the child's,
``messages`` what the two send each other.
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
    """Make the attempt of a claimed job, where its task wants it to run.

    is_stopping: whether its worker was told to stop.
    """
    if claim.job.options.executor == "process":
        return SubprocessAttempt(claim, environment, is_stopping)
    return Attempt(claim, environment)
