"""What the schedules of the tests call, and tasks that declare some."""

from __future__ import annotations

from typing import Any

from tgext.asyncjob import TaskContext, task


def work(*_args: Any, **_kwargs: Any) -> None:
    """Nobody runs it."""


@task(queue_name="mails", priority=7, timeout=30)
def mail(_to: str = "") -> None:
    """A task with options of its own."""


@task(takes_context=True)
def with_context(_context: TaskContext, _to: str) -> None:
    """A task that takes the context before its arguments."""


@task
def declared() -> None:
    """The tests declare it by hand: with cron= it would be declared in every worker of theirs."""


@task(limit=1, limit_key=lambda shop: shop)
def limited(_shop: str = "") -> None:
    """A task with a limit for each shop: of a job without one no key can be made."""
