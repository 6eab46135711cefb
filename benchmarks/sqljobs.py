"""What the measured durable jobs do, the same for every contender: count, stamp, or insert a row.

Module-level functions, because a worker has to find them again by name. Standard library only:
this module is imported in every environment. A job that inserts a row does it with what its
contender gives to jobs, so that one is beside each contender; it calls `tick` afterwards.
"""

import itertools
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

#: nothing here waits longer: a contender that has lost a job ends the measurement
PATIENCE_SECONDS = 120.0

#: the application's own table: a request and a one-row job insert into it
CREATE_WRITTEN = "create table written (number integer, note varchar(40))"
NOTE = "a row of the application's own"


class Tally:
    """Count the jobs of one measurement: when the first began, and when the last has run."""

    def __init__(self) -> None:
        self.expect(0)

    def expect(self, jobs: int, spent: Callable[[], Any] = time.process_time) -> None:
        """Begin again with *jobs* to come; nothing may be running meanwhile.

        spent: called when the first begins, for what was spent until then.
        """
        self.numbers = itertools.count(1)
        self.last = jobs
        self.spent = spent
        self.began_at, self.spent_before = 0.0, None
        self.complete = threading.Event()

    def count(self) -> None:
        number = next(self.numbers)
        if number == 1:
            self.began_at, self.spent_before = time.perf_counter(), self.spent()
        if number == self.last:
            self.complete.set()

    def wait(self) -> None:
        """Wait for the last job. Raises RuntimeError when it does not come."""
        if not self.complete.wait(PATIENCE_SECONDS):
            raise RuntimeError(
                f"expected {self.last} jobs, ran {next(self.numbers) - 1} in {PATIENCE_SECONDS} s"
            )


class Stamps:
    """A named pipe from the jobs of one process to another: the instant of their first line.

    The monotonic clock is the same in all processes of a machine.
    """

    _ONE = struct.Struct("<q")

    def open(self, path: str) -> None:
        """Use the pipe at *path*, which exists; either end may be opened first."""
        self._pipe = os.open(path, os.O_RDWR)

    def write(self, nanoseconds: int) -> None:
        os.write(self._pipe, self._ONE.pack(nanoseconds))

    def read(self) -> int:
        """Give the next stamp. Raises RuntimeError when it does not come."""
        if not select.select([self._pipe], [], [], PATIENCE_SECONDS)[0]:
            raise RuntimeError(f"expected a stamp, none came in {PATIENCE_SECONDS} s")
        number: int = self._ONE.unpack(os.read(self._pipe, self._ONE.size))[0]
        return number

    def close(self) -> None:
        os.close(self._pipe)


TALLY = Tally()
STAMPS = Stamps()


def tick(*_: Any) -> None:
    """Count this job: the no-op that is measured."""
    TALLY.count()


def stamp(*_: Any) -> None:
    """Tell when this line ran."""
    STAMPS.write(time.monotonic_ns())


def linger(*_: Any) -> None:
    """Do nothing, uncounted: a job of the standing backlog."""
