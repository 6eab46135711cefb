"""The commands of both entry points, ``python -m tgext.asyncjob`` and gearbox.

An entry point loads a queue (from a URL, a module or an .ini file) and offers the commands. This
package has the rest.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..backends import left_unopened, only_present
from ..queue import JobQueue
from . import actions, celery, schedules, schema, status, worker
from .command_result import (
    FINE,
    INTERRUPTED,
    NOT_WRITTEN,
    NOTHING_FOUND,
    CommandResult,
    Load,
    loaded,
    result_of_error,
)
from .output import write


class Command(NamedTuple):
    """summary: one line of help. is_service: whether it keeps running and writes a log. tells: it
    reports errors of the application itself."""

    name: str
    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Load, Namespace], CommandResult]
    is_service: bool = False
    tells: bool = False


def run_command(command: Command, load: Load, wanted: Namespace) -> int:
    """Run a command, write its result, and return the exit code."""
    try:
        text, code = command.run(load if command.tells else partial(loaded, load), wanted)
    except Exception as error:
        result = result_of_error(error)
        if result is None:
            raise
        text, code = result
    except KeyboardInterrupt:
        return INTERRUPTED
    if not text:
        return code
    if code not in (FINE, NOTHING_FOUND):
        write(text, sys.stderr)
    elif not write(text, sys.stdout):
        write("the command is done, but its output could not be written", sys.stderr)
        return NOT_WRITTEN
    return code


Action = Callable[[JobQueue, Namespace], CommandResult]


def _on_queue(action: Action, *, opened: bool = True) -> Callable[[Load, Namespace], CommandResult]:
    """Make a command of an action on a queue, in a process that runs no jobs.

    opened: whether the tables are checked, and created, before; False for an action on a database
    without tables, or with those of another version.
    """

    def run(load: Load, wanted: Namespace) -> CommandResult:
        # The SQL that --sql prints may be meant to create the file.
        may_make = getattr(wanted, "create", False) or getattr(wanted, "sql", False)
        with only_present(not may_make), left_unopened(not opened), load() as queue:
            queue.allow_worker(False)  # the TurboGears integration has allowed it
            return action(queue, wanted)

    return run


COMMANDS = (
    Command("worker", "run jobs", worker.add_arguments, worker.run, is_service=True),
    Command(
        "celery",
        "run Celery with the jobs of the application",
        celery.add_arguments,
        celery.run,
        is_service=True,
        tells=True,
    ),
    Command(
        "status",
        "show waiting and running jobs and the workers, or the state of some jobs",
        status.add_arguments,
        _on_queue(status.run),
    ),
    Command("retry", "enqueue ended jobs again", actions.add_retry, _on_queue(actions.retry)),
    Command("cancel", "cancel jobs", actions.add_cancel, _on_queue(actions.cancel)),
    Command("purge", "remove ended jobs", actions.add_purge, _on_queue(actions.purge)),
    Command("pause", "take no jobs from some queues", actions.add_queues, _on_queue(actions.pause)),
    Command("resume", "end a pause", actions.add_queues, _on_queue(actions.resume)),
    Command(
        "schedules",
        "show schedules and their ticks; pause, resume, run now and delete some",
        schedules.add_arguments,
        _on_queue(schedules.run),
    ),
    Command(
        "schema",
        "show the version of the tables, create or upgrade them",
        schema.add_arguments,
        _on_queue(schema.run, opened=False),
    ),
)
