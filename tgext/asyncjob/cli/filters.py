"""The filters of commands: which jobs, by what they have in common."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection
from datetime import timedelta

from ..backends.listing import MOST_LISTED, Cursor, JobFilter
from ..job import TaskResultStatus
from ..queue import JobQueue
from ..wording import age_of
from .shared_backend import overview_of

#: The statuses of ended jobs, in their order.
ENDS = [status for status in TaskResultStatus if status.is_final]

_ENDED = "such a job has ended"


def add_filters(
    parser: ArgumentParser, statuses: Collection[TaskResultStatus] = tuple(TaskResultStatus)
) -> None:
    """Add the options of a filter; statuses: those to choose from."""
    add = parser.add_argument_group("which jobs").add_argument
    add(
        "--status",
        type=_statuses(list(statuses)),
        metavar="STATUS,...",
        help=f"with one of these statuses: {','.join(statuses)}",
    )
    add("--name", metavar="PATH", help="of the function with this dotted path")
    add("--queue", metavar="NAME", help="of this queue")
    add("--user", metavar="USER", help="enqueued while this user was logged in")
    add("--error", metavar="CLASS", help="with an error of this class, as in ValueError")
    add(
        "--since",
        type=_age,
        metavar="AGE",
        help="ended, or enqueued if they have not, at most so long ago: seconds, or as in 15m, 12h",
    )
    add(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="ended, or enqueued if they have not, at least so long ago",
    )


def is_narrowed(wanted: Namespace) -> bool:
    """Whether one of these options was given."""
    names = ("status", "name", "queue", "user", "error", "since", "older_than")
    return any(getattr(wanted, name) is not None for name in names)


def filter_of(
    queue: JobQueue, wanted: Namespace, statuses: Collection[TaskResultStatus] | None = None
) -> JobFilter:
    """Return the filter that was asked for. statuses: those that it has if it names none."""
    now = overview_of(queue).now()
    since, until = (None if age is None else now - age for age in (wanted.since, wanted.older_than))
    chosen = wanted.status or statuses
    return JobFilter.of(chosen, wanted.name, wanted.queue, wanted.user, wanted.error, since, until)


def uids_of(queue: JobQueue, wanted: JobFilter) -> list[str]:
    """Find the jobs of a filter. All are found before the first is changed, as a changed one may
    come into the list again."""
    found: list[str] = []
    after = None
    while True:
        page = queue.backend.find(wanted, Cursor.of(after), MOST_LISTED)
        found += page.uids
        after = page.next
        if after is None:
            return found


def _age(text: str) -> timedelta:
    found = age_of(text)
    if found is None:
        raise ArgumentTypeError(
            f"expected an age: seconds, 0 or more, or as in 15m, 12h, 30d, got {text!r}"
        )
    return found


def _statuses(among: list[TaskResultStatus]) -> Callable[[str], list[TaskResultStatus]]:
    """Return what reads a list of statuses, of *among*."""
    known = [status.value for status in among]

    def read(text: str) -> list[TaskResultStatus]:
        found = {part.strip().upper() for part in text.split(",")}
        for name in sorted(found - set(known)):
            near = difflib.get_close_matches(name, known, 1)
            if name in TaskResultStatus.__members__:
                hint = "a job that has not ended is cancelled first" if among == ENDS else _ENDED
            else:
                hint = f"did you mean {near[0]}?" if near else f"there is no status {name!r}"
            raise ArgumentTypeError(
                f"expected one or more of {','.join(known)}, got {text!r}; {hint}"
            )
        return [status for status in among if status.value in found]

    return read
