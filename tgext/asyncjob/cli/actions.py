"""``retry``, ``cancel``, ``purge``, ``pause`` and ``resume``: they act without a confirmation."""

from __future__ import annotations

import getpass
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

from ..backends.audit import Act
from ..backends.listing import JobFilter
from ..errors import ConfigError, UnknownJob
from ..job import READY, RUNNING, TaskResultStatus
from ..queue import JobQueue
from ..queue_name import check_queue_name
from ..wording import number_of
from .command_result import FINE, NOTHING_FOUND, CommandResult
from .filters import ENDS, add_filters, filter_of, is_narrowed, uids_of
from .output import one_line
from .shared_backend import shared_backend

#: Jobs that one transaction changes.
CHANGED_AT_ONCE = 500

#: The statuses of jobs that can be cancelled.
OPEN = (READY, RUNNING)


def operator() -> Act:
    """Return the user of this process, as the one who does something."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        user = None
    return Act(user, "command")


def add_retry(parser: ArgumentParser) -> None:
    _add_jobs(parser, ENDS)


def add_cancel(parser: ArgumentParser) -> None:
    _add_jobs(parser, OPEN)


def _add_jobs(parser: ArgumentParser, statuses: Collection[TaskResultStatus]) -> None:
    parser.add_argument("uid", nargs="*", help="the jobs; or give a filter")
    add_filters(parser, statuses)
    parser.add_argument("--dry-run", action="store_true", help="print how many; change nothing")


def retry(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Enqueue ended jobs again."""
    shared_backend(queue)
    if _is_for_many(wanted, "retry"):
        return _many(queue, wanted, ENDS, ("retry", "retried"))
    return _each(queue, wanted.uid, queue.results.retry, "waits again", "has not ended yet")


def cancel(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Cancel jobs: waiting ones at once, running ones at their next checkpoint."""
    shared_backend(queue)
    if _is_for_many(wanted, "cancel"):
        return _many(queue, wanted, OPEN, ("cancel", "cancelled"))
    return _each(queue, wanted.uid, queue.results.cancel, "is cancelled", "had ended already")


def _is_for_many(wanted: Namespace, name: str) -> bool:
    """Whether the jobs are those of a filter; raises ConfigError unless they are said one way."""
    narrowed = is_narrowed(wanted)
    if narrowed and wanted.uid:
        raise ConfigError(f"{name}: expected uids or a filter, got both; leave one of them out")
    if not narrowed and not wanted.uid:
        raise ConfigError(f"{name}: expected which jobs, by their uids or a filter, got neither")
    if wanted.dry_run and wanted.uid:
        raise ConfigError(f"{name}: --dry-run is for a filter; without one the uids say which jobs")
    return narrowed


def _many(
    queue: JobQueue,
    wanted: Namespace,
    statuses: Collection[TaskResultStatus],
    words: tuple[str, str],
) -> CommandResult:
    """Change the jobs of a filter, some hundred in a transaction, and say how many."""
    chosen = filter_of(queue, wanted, statuses)
    uids = uids_of(queue, chosen)
    if wanted.dry_run:
        return CommandResult(f"would {words[0]} {number_of(len(uids), 'job')}")
    changed = 0
    with _recorded(queue, words[0], chosen, len(uids)) as act:
        for begin in range(0, len(uids), CHANGED_AT_ONCE):
            some = uids[begin : begin + CHANGED_AT_ONCE]
            changed += queue.backend.change_many(words[0], some, None, act)
    left = len(uids) - changed
    besides = f"; {number_of(left, 'job')} had changed meanwhile" if left else ""
    code = FINE if uids else NOTHING_FOUND
    return CommandResult(f"{words[1]} {number_of(changed, 'job')}{besides}", code)


@contextmanager
def _recorded(queue: JobQueue, action: str, chosen: JobFilter, most: int) -> Iterator[Act]:
    """Have the audit tell of what the block does to many jobs, and how it ends: Ctrl-C and errors
    end it early. most: the number of these jobs."""
    audit = queue.backend.audit
    act = audit.begin(operator(), action, chosen.described())
    number, early = act.number or 0, "ended early, after "
    try:
        yield act
        early = ""
    finally:
        with suppress(Exception) if early else nullcontext():  # the store may be what fails
            record = audit.find(number)
            audit.end(number, f"{early}{record.changed if record else 0} of {most}")


def _each(
    queue: JobQueue,
    uids: list[str],
    change: Callable[[str, Act], bool],
    done: str,
    not_done: str,
) -> CommandResult:
    lines, code = [], FINE
    for uid in dict.fromkeys(uids):
        try:
            found = queue.result(uid)
            is_done = change(uid, operator())
            found.refresh()
        except UnknownJob as error:
            lines.append(one_line(str(error)))
            code = NOTHING_FOUND
            continue
        if not is_done:
            code = NOTHING_FOUND
        text = done if is_done else not_done
        if is_done and change == queue.results.cancel and not found.is_finished:
            text = "runs, and is cancelled at its next checkpoint"
        lines.append(one_line(f"{uid} {text}"))
    return CommandResult("\n".join(lines), code)


# -- purge


def add_purge(parser: ArgumentParser) -> None:
    add_filters(parser, ENDS)
    add = parser.add_argument
    add("--all", action="store_true", help="all ended jobs, of any status and age")
    add("--dry-run", action="store_true", help="print how many jobs would be removed; remove none")


def purge(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Remove ended jobs for good: those that match the filters, or all."""
    backend = shared_backend(queue)
    narrowed = is_narrowed(wanted)
    if wanted.all and narrowed:
        raise ConfigError("purge: expected --all or a filter, got both; leave one of them out")
    if not wanted.all and not narrowed:
        raise ConfigError(
            "purge: expected which ended jobs to remove: a filter such as --older-than AGE or "
            "--status STATUS, or --all of them"
        )
    chosen = filter_of(queue, wanted, ENDS)
    uids = uids_of(queue, chosen)
    if wanted.dry_run:
        return CommandResult(f"would remove {number_of(len(uids), 'job')}")
    with _recorded(queue, "purge", chosen, len(uids)) as act:
        removed = backend.purge(uids, act)
    return CommandResult(f"removed {number_of(removed, 'job')}")


# -- pause and resume


def add_queues(parser: ArgumentParser) -> None:
    parser.add_argument("queue", nargs="+", help="names of queues")


def pause(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Let no worker take a job from some queues."""
    shared_backend(queue)
    act = operator()
    names = [check_queue_name(name) for name in wanted.queue]  # all, before the first is paused
    return _queues(
        names, lambda name: queue.backend.pause(name, act.user, act), "is paused",
        "was paused before",
    )  # fmt: skip


def resume(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """End the pause of some queues."""
    shared_backend(queue)
    change = partial(queue.backend.resume, act=operator())
    return _queues(wanted.queue, change, "is resumed", "was not paused")


def _queues(
    names: list[str], change: Callable[[str], bool], done: str, not_done: str
) -> CommandResult:
    changed = {name: change(name) for name in dict.fromkeys(names)}
    lines = [one_line(f"{name} {done if yes else not_done}") for name, yes in changed.items()]
    return CommandResult("\n".join(lines), FINE if all(changed.values()) else NOTHING_FOUND)
