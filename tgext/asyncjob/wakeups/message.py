"""The message of a wake-up: the name of a queue, and nothing else.

Each queue of jobs has a queue of the broker, named by the prefix of the tables and its own name, so
that ``celery worker -Q`` chooses as ``asyncjob.queues`` does. Applications that share a broker need
different prefixes, or different virtual hosts (Redis: numbers of databases).
"""

from __future__ import annotations

from ..queue_name import check_queue_name

#: The one task.
TASK = "asyncjob.run"


def broker_queue(prefix: str, queue_name: str) -> str:
    """Return the name of the broker's queue for a queue of jobs."""
    return f"{prefix}{queue_name}"


def queue_name_of(prefix: str, broker_name: str) -> str | None:
    """Return the name of the queue of jobs for one of the broker; None if it is none of ours."""
    if not broker_name.startswith(prefix):
        return None
    return checked(broker_name.removeprefix(prefix))


def checked(name: object) -> str | None:
    """Return *name*, which came in a message, if it can be the name of a queue; else None."""
    try:
        return check_queue_name(name)
    except (TypeError, ValueError):
        return None
