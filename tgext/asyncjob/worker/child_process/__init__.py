"""Attempts in processes of their own: what ``@task(executor="process")`` asks for.

    slot --- AttemptApart ==line==> process of the attempt: scope, call, fenced mark, commit
                  |                        ^
                  '-- asks --> nursery --fork, wait, kill--'

A process runs one attempt and ends. It is forked from the *nursery*, a process that has one
thread, the application as it was loaded, and nothing open. So no lock that some thread of the
worker holds is copied, and a process that dies or is killed takes nothing along.

The rooms: ``nursery`` (where processes come from), ``attempt`` (the worker's side of one),
``child`` (its own side), ``letters`` (what goes over the line between the two).
"""

from __future__ import annotations

from collections.abc import Callable

from ...job import Claim
from ..attempt import Attempt
from ..environment import AttemptEnvironment
from .attempt import AttemptApart
from .child import Line
from .fork_server import Nursery
from .messages import check_travels, declares_processes

__all__ = [
    "AttemptApart",
    "Line",
    "Nursery",
    "begin",
    "check_travels",
    "declares_processes",
]


def begin(
    claim: Claim, environment: AttemptEnvironment, is_stopping: Callable[[], bool] = lambda: False
) -> Attempt:
    """Make the attempt of a claimed job, where its task wants it to run.

    is_stopping: whether its worker was told to stop.
    """
    if claim.job.options.executor == "process":
        return AttemptApart(claim, environment, is_stopping)
    return Attempt(claim, environment)
