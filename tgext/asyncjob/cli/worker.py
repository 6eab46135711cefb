"""``worker``: run jobs in this process, or in several that are supervised."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from math import inf

from ..errors import ConfigError
from ..options import Options
from ..processes.recycling import RecycleLimits
from ..processes.supervisor import NOTHING_LEFT, Supervisor
from ..queue import JobQueue
from ..queue_name import MADE_OF
from .command_result import FINE, CommandResult, Load
from .preflight import drain_seconds_of
from .shared_backend import overview_of
from .worker_process import WorkerArguments, run_worker

#: The unit of --max-rss, in bytes.
MEGABYTE = 1024 * 1024


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--processes", type=_number, metavar="N", default=1, help="worker processes (default: 1)")
    add(
        "--threads",
        type=_number,
        metavar="N",
        help="threads of each (default: asyncjob.threads, and 1 where that is 0)",
    )
    add(
        "--queues",
        type=_names,
        metavar="A,B",
        help="names of the queues to serve (default: asyncjob.queues, else all)",
    )
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--once", action="store_true", help="run one job if one is due, and exit")
    until.add_argument("--burst", action="store_true", help="run until no job is due, and exit")
    add(
        "--max-jobs",
        type=_number,
        metavar="N",
        help="replace a process that has run about N jobs",
    )
    add(
        "--max-rss",
        type=_number,
        metavar="MB",
        help="replace a process whose resident memory has reached MB megabytes",
    )


def run(load: Load, wanted: Namespace) -> CommandResult:
    """Run jobs until a signal comes, or until no job is left (``--once``, ``--burst``)."""
    if wanted.once and (wanted.processes > 1 or (wanted.threads or 1) > 1):
        raise ConfigError("--once runs one job: expected one process and one thread, got more")
    max_rss_bytes = None if wanted.max_rss is None else wanted.max_rss * MEGABYTE
    arguments = WorkerArguments(
        threads=1 if wanted.once else wanted.threads,
        queues=wanted.queues,
        leave_after=1 if wanted.once else inf if wanted.burst else None,
        recycle_limits=RecycleLimits(wanted.max_jobs, max_rss_bytes),
    )
    if arguments.leave_after is not None:
        load = partial(_load_reachable, load)
    if wanted.processes == 1 and arguments.recycle_limits == RecycleLimits():
        status = run_worker(load, arguments, [signal.SIGTERM, signal.SIGINT])
        return CommandResult("", FINE if status == NOTHING_LEFT else status)
    drain_seconds = drain_seconds_of(load)
    if isinstance(drain_seconds, CommandResult):
        return drain_seconds
    supervisor = Supervisor(
        # A terminal sends SIGINT to all processes; only the supervisor handles it.
        partial(run_worker, load, arguments, [signal.SIGTERM]),
        processes=wanted.processes,
        drain_seconds=drain_seconds,
    )
    return CommandResult("", supervisor.run())


def _load_reachable(load: Load) -> JobQueue:
    """Load the application, and raise at once if its database cannot be reached.

    Without ``--once`` and ``--burst`` worker processes wait for the database instead.
    """
    queue: JobQueue = load()
    try:
        overview_of(queue).now()
    except BaseException:
        queue.close()
        raise
    return queue


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise ArgumentTypeError(f"expected a whole number, 1 or more, got {text!r}")
    return number


def _names(text: str) -> tuple[str, ...]:
    try:
        names = Options.of({"queues": text}).queues
    except ConfigError:
        names = None
    if names is None:
        raise ArgumentTypeError(
            f"expected names, separated by commas, each of {MADE_OF}, got {text!r}"
        )
    return names
