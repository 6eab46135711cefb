"""What statements assign to make a job wait again, or end it: each transition is written once.

    waiting_again    a failed attempt, a release, the death of a worker
    made_available   the time of a delayed job has come; ``retry`` of an ended one
    ended            a completion, a failure, a death too many

The rest of a statement is its own. After the commit ``SqlStore._made_available`` wakes the threads
that wait for jobs.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, case

from . import states

#: Columns and their new values, in their order: on MariaDB an assignment sees what those before it
#: have assigned.
Assignments = list[tuple[Any, Any]]


def made_available(jobs: Table) -> Assignments:
    """Return what makes a job AVAILABLE, whatever it was before."""
    return [(jobs.c.due_at, None), (jobs.c.finished_at, None), (jobs.c.state, states.AVAILABLE)]


def waiting_again(
    jobs: Table, now: ColumnElement[float], delay_seconds: float = 0.0
) -> Assignments:
    """Return what makes a job wait that was claimed; if it was cancelled meanwhile, it ends."""
    again = states.SCHEDULED if delay_seconds > 0 else states.AVAILABLE
    return [
        (jobs.c.worker_id, None),
        (jobs.c.fenced, False),
        (jobs.c.due_at, now + delay_seconds if delay_seconds > 0 else None),
        (jobs.c.finished_at, case((jobs.c.cancelled, now), else_=None)),
        (jobs.c.state, case((jobs.c.cancelled, states.CANCELLED), else_=again)),
    ]


def ended(jobs: Table, now: ColumnElement[float], state: Any) -> Assignments:
    """Return what ends a job that was claimed. state: its last one, a number or an expression."""
    return [
        (jobs.c.worker_id, None),
        (jobs.c.fenced, False),
        (jobs.c.finished_at, now),
        (jobs.c.state, state),
    ]
