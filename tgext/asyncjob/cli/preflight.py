"""Preflight check: loads the application once in a child, before any worker process is started.

So an error of the application is shown at once and only once, one process creates the tables, and
the supervisor, which does not load the application, knows how long a drain may take.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from ..processes.forking import ChildProcesses
from ..queue import JobQueue
from .command_result import NOT_LOADED, USAGE, CommandResult, Load, result_of_error
from .shared_backend import shared_backend

Answer = TypeVar("Answer")

#: How long the child may take to end after this process has died, in seconds.
END_SECONDS = 1.0


def drain_seconds_of(load: Load) -> float | CommandResult:
    """Return the application's ``drain_timeout``, as ``answer_of`` does."""
    return answer_of(load, lambda queue: queue.options.drain_timeout)


def answer_of(load: Load, ask: Callable[[JobQueue], Answer]) -> Answer | CommandResult:
    """Return what *ask* returns for the application's queue, in a child; or the result of the
    command if a signal came, the application cannot be loaded, or worker processes cannot see its
    jobs. The answer comes as JSON.

    Called in the main thread of a process that has no other thread.
    """
    read, write = os.pipe()
    children = ChildProcesses(END_SECONDS)
    try:

        def check() -> int:
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                json.dump(_answer_or_error(load, ask), pipe)
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
    found: dict[str, Any] = (
        json.loads(text) if text else {"refused": CommandResult(NOT_LOADED, USAGE)}
    )
    if "refused" in found:
        return CommandResult(*found["refused"])
    answer: Answer = found["answer"]
    return answer


def _answer_or_error(load: Load, ask: Callable[[JobQueue], Any]) -> dict[str, Any]:
    try:
        queue: JobQueue = load()
        with queue:
            shared_backend(queue)
            return {"answer": ask(queue)}
    except Exception as error:
        result = result_of_error(error)
        if result is None:
            raise
        return {"refused": result}


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
