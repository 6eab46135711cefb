"""What statements assign to make a job wait again, or end it: each transition is written once.

    waiting_again    a failed attempt, a release, the death of a worker
    made_available   the time of a delayed job has come; ``retry`` of an ended one
    admitted         a job with a key holds its slots
    taken_back       it is another owner's turn
    put_back         a claim is undone before its attempt begins
    ended            a completion, a failure, a death too many

A job with a key becomes BLOCKED instead of AVAILABLE; only ``admitted`` makes it
AVAILABLE, and ``put_back`` leaves it so.

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
    """Return what makes a job AVAILABLE or BLOCKED, whatever it was before."""
    return [
        (jobs.c.due_at, None),
        (jobs.c.finished_at, None),
        (jobs.c.blocked_by, jobs.c.limit_key),
        (jobs.c.state, _available_or_blocked(jobs)),
    ]


def put_back(jobs: Table, now: ColumnElement[float]) -> Assignments:
    """Return what makes a job AVAILABLE again whose claim is undone before its attempt begins: it
    keeps its slots. If it was cancelled meanwhile, it ends."""
    return [
        (jobs.c.worker_id, None),
        (jobs.c.finished_at, case((jobs.c.cancelled, now), else_=None)),
        (jobs.c.state, case((jobs.c.cancelled, states.CANCELLED), else_=states.AVAILABLE)),
    ]


def admitted(jobs: Table) -> Assignments:
    """Return what makes a BLOCKED job AVAILABLE."""
    return [(jobs.c.blocked_by, None), (jobs.c.state, states.AVAILABLE)]


def taken_back(jobs: Table) -> Assignments:
    """Return what makes an admitted job BLOCKED again that no worker has claimed."""
    return [(jobs.c.blocked_by, jobs.c.limit_key), (jobs.c.state, states.BLOCKED)]


def _available_or_blocked(jobs: Table) -> ColumnElement[int]:
    return case((jobs.c.limit_key.is_(None), states.AVAILABLE), else_=states.BLOCKED)


def waiting_again(
    jobs: Table, now: ColumnElement[float], delay_seconds: float = 0.0
) -> Assignments:
    """Return what makes a job wait that was claimed; if it was cancelled meanwhile, it ends."""
    is_delayed = delay_seconds > 0
    again: Any = states.SCHEDULED if is_delayed else _available_or_blocked(jobs)
    blocked_by: Any = None if is_delayed else case((jobs.c.cancelled, None), else_=jobs.c.limit_key)
    return [
        (jobs.c.worker_id, None),
        (jobs.c.fenced, False),
        (jobs.c.due_at, now + delay_seconds if is_delayed else None),
        (jobs.c.blocked_by, blocked_by),
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
