"""``retry``, ``cancel`` and ``purge``: they change jobs, and ask nothing back."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable

from ..errors import UnknownJob
from ..job import TaskResultStatus
from ..queue import JobQueue
from ..task import TaskResult
from .answer import FINE, NOTHING_FOUND, Answer, number_of
from .durable import durable
from .output import one_line

#: The statuses of ended jobs, in their order.
ENDS = [status for status in TaskResultStatus if status.is_final]


def add_uids(parser: ArgumentParser) -> None:
    parser.add_argument("uid", nargs="+", help="the jobs")


def retry(queue: JobQueue, wanted: Namespace) -> Answer:
    """Enqueue ended jobs again."""
    durable(queue)
    return _each(queue, wanted.uid, TaskResult.retry, "waits again", "has not ended yet")


def cancel(queue: JobQueue, wanted: Namespace) -> Answer:
    """Take jobs back: waiting ones at once, running ones at their next checkpoint."""
    durable(queue)
    return _each(queue, wanted.uid, TaskResult.cancel, "is cancelled", "had ended already")


def _each(
    queue: JobQueue, uids: list[str], change: Callable[[TaskResult], bool], done: str, not_done: str
) -> Answer:
    lines, code = [], FINE
    for uid in uids:
        try:
            found = queue.result(uid)
            is_done = change(found)
            found.refresh()
        except UnknownJob as error:
            lines.append(str(error))
            code = NOTHING_FOUND
            continue
        if not is_done:
            code = NOTHING_FOUND
        text = done if is_done else not_done
        if is_done and change is TaskResult.cancel and not found.is_finished:
            text = "runs, and is cancelled at its next checkpoint"
        lines.append(one_line(f"{uid} {text}"))
    return Answer("\n".join(lines), code)


# -- purge


def add_choice(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--older-than",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="only jobs that ended so long ago; without it all ended ones",
    )
    parser.add_argument(
        "--status",
        type=_statuses,
        default=ENDS,
        metavar="STATUS,...",
        help=f"only jobs that ended so; without it {','.join(ENDS)}",
    )


def purge(queue: JobQueue, wanted: Namespace) -> Answer:
    """Remove ended jobs, at once and for ever."""
    removed = durable(queue).purge(wanted.status, wanted.older_than)
    return Answer(f"removed {number_of(removed, 'job')}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return seconds


def _statuses(text: str) -> list[TaskResultStatus]:
    found = {part.strip().upper() for part in text.split(",")}
    known = [status.value for status in ENDS]
    if not found <= set(known):
        raise ArgumentTypeError(
            f"expected one or more of {','.join(known)}, got {text!r}; a job that has not ended "
            "is cancelled first"
        )
    return [status for status in ENDS if status.value in found]
