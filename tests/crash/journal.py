"""What a process has done and when, in lines that a SIGKILL does not take back.

A line is written by one ``write`` to a file opened for appending: once that has returned the
kernel has it, whatever becomes of the process. Instants are of ``time.monotonic()``, which on
Linux is the same clock in all processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .place import here

STARTED = "started"  #: the first line of a process
READY = "ready"  #: a worker serves
BEGAN = "began"  #: an attempt's first line
RAN = "ran"  #: the last line of a job that touched no database
STRUCK = "struck"  #: the process is about to send itself a signal, in that job
PASSED = "passed"  #: the attempt that a SIGSTOP held up has ended, as it may
DONE = "done"  #: everything is enqueued


class Line(NamedTuple):
    """One line, as it is read."""

    seconds: float
    child: str  #: the name of the process that wrote it
    word: str  #: one of the above
    subject: str  #: a job's uid, or nothing


def note(word: str, subject: str = "") -> None:
    """Write a line into this process's journal."""
    os.write(_descriptor(), f"{time.monotonic():.6f} {word} {subject}\n".encode())


@cache
def _descriptor() -> int:
    return os.open(here().path("journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def read(path: Path) -> list[Line]:
    """Read what a process has written until now."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        seconds, word, *subject = line.split(" ")
        found.append(Line(float(seconds), path.stem, word, " ".join(subject)))
    return found


def read_all(folder: str) -> Iterator[Line]:
    """Read the journals of all processes of a run."""
    for path in Path(folder).glob("*.journal"):
        yield from read(path)
