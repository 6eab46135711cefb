"""``retry``, ``cancel`` and ``purge``: they change jobs without a confirmation."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable

from ..errors import ConfigError, UnknownJob
from ..job import TaskResultStatus
from ..queue import JobQueue
from ..task_result import TaskResult
from ..wording import number_of
from .command_result import FINE, NOTHING_FOUND, CommandResult
from .output import one_line
from .shared_backend import shared_backend

#: The statuses of ended jobs, in their order.
ENDS = [status for status in TaskResultStatus if status.is_final]


def add_uids(parser: ArgumentParser) -> None:
    parser.add_argument("uid", nargs="+", help="the jobs")


def retry(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Enqueue ended jobs again."""
    shared_backend(queue)
    return _each(queue, wanted.uid, TaskResult.retry, "waits again", "has not ended yet")


def cancel(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Cancel jobs: waiting ones at once, running ones at their next checkpoint."""
    shared_backend(queue)
    return _each(queue, wanted.uid, TaskResult.cancel, "is cancelled", "had ended already")


def _each(
    queue: JobQueue, uids: list[str], change: Callable[[TaskResult], bool], done: str, not_done: str
) -> CommandResult:
    lines, code = [], FINE
    for uid in dict.fromkeys(uids):
        try:
            found = queue.result(uid)
            is_done = change(found)
            found.refresh()
        except UnknownJob as error:
            lines.append(one_line(str(error)))
            code = NOTHING_FOUND
            continue
        if not is_done:
            code = NOTHING_FOUND
        text = done if is_done else not_done
        if is_done and change is TaskResult.cancel and not found.is_finished:
            text = "runs, and is cancelled at its next checkpoint"
        lines.append(one_line(f"{uid} {text}"))
    return CommandResult("\n".join(lines), code)


# -- purge

#: Seconds in the units of an age.
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_filters(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--older-than",
        type=_seconds,
        metavar="AGE",
        help="only jobs that ended longer ago than this: seconds, or as in 15m, 12h, 30d",
    )
    add(
        "--status",
        type=_statuses,
        metavar="STATUS,...",
        help=f"only jobs with these statuses: one or more of {','.join(ENDS)}",
    )
    add("--all", action="store_true", help="all ended jobs, of any status and age")
    add("--dry-run", action="store_true", help="print how many jobs would be removed; remove none")


def purge(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Remove ended jobs for good: those that match the filters, or all."""
    backend = shared_backend(queue)
    has_filter = wanted.older_than is not None or wanted.status is not None
    if wanted.all and has_filter:
        raise ConfigError("purge: expected --all or a filter, got both; leave one of them out")
    if not wanted.all and not has_filter:
        raise ConfigError(
            "purge: expected which ended jobs to remove: --older-than AGE, --status STATUS, or "
            "--all of them"
        )
    statuses, seconds = wanted.status or ENDS, wanted.older_than or 0.0
    if wanted.dry_run:
        return CommandResult(f"would remove {number_of(backend.ended(statuses, seconds), 'job')}")
    return CommandResult(f"removed {number_of(backend.purge(statuses, seconds), 'job')}")


def _seconds(text: str) -> float:
    number = text.strip().rstrip("smhd")
    unit = text.strip()[len(number) :]
    try:
        seconds = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ArgumentTypeError(
            f"expected an age: seconds, 0 or more, or as in 15m, 12h, 30d, got {text!r}"
        )
    return seconds


def _statuses(text: str) -> list[TaskResultStatus]:
    found = {part.strip().upper() for part in text.split(",")}
    known = [status.value for status in ENDS]
    for name in sorted(found - set(known)):
        near = difflib.get_close_matches(name, known, 1)
        if name in TaskResultStatus.__members__:
            hint = "a job that has not ended is cancelled first"
        else:
            hint = f"did you mean {near[0]}?" if near else f"there is no status {name!r}"
        raise ArgumentTypeError(f"expected one or more of {','.join(known)}, got {text!r}; {hint}")
    return [status for status in ENDS if status.value in found]
