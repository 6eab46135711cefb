"""Preflight check: loads the application once in a child, before any worker process is started.

So an error of the application is shown at once and only once, one process creates the tables, and
the supervisor, which does not load the application, knows how long a drain may take.
"""

from __future__ import annotations

import json
import os
import signal

from ..processes.forking import ChildProcesses
from ..queue import JobQueue
from .command_result import NOT_LOADED, USAGE, CommandResult, Load, result_of_error
from .shared_backend import shared_backend

#: How long the child may take to end after this process has died, in seconds.
END_SECONDS = 1.0


def drain_seconds_of(load: Load) -> float | CommandResult:
    """Return the application's ``drain_timeout``, or the result of the command if a signal came,
    the application cannot be loaded, or worker processes cannot see its jobs.

    Called in the main thread of a process that has no other thread.
    """
    read, write = os.pipe()
    children = ChildProcesses(END_SECONDS)
    try:

        def check() -> int:
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                json.dump(_drain_seconds_or_error(load), pipe)
            return 0

        pid = children.fork(check)
        os.close(write)
        was_told = _wait_for(pid, children)
        with os.fdopen(read) as pipe:
            text = pipe.read()
    finally:
        children.close()
    if was_told:
        return CommandResult("")
    found = json.loads(text) if text else CommandResult(NOT_LOADED, USAGE)
    return found if isinstance(found, float) else CommandResult(*found)


def _drain_seconds_or_error(load: Load) -> float | CommandResult:
    try:
        queue: JobQueue = load()
        with queue:
            shared_backend(queue)
            return queue.options.drain_timeout
    except Exception as error:
        result = result_of_error(error)
        if result is None:
            raise
        return result


def _wait_for(pid: int, children: ChildProcesses) -> bool:
    """Wait for the end of the child; True if a signal to end came meanwhile."""
    was_told = False
    while True:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            return was_told
        for number in children.wait(None):
            if number in (signal.SIGTERM, signal.SIGINT):
                was_told = True
                os.kill(pid, signal.SIGTERM)
