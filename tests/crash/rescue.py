"""How long the job of a dead worker waits: one job alone, its worker killed, again and again.

The job's next attempt is on another worker, which was idle, and is the next one to be killed. A
random pause before each blow lets it fall anywhere between two looks for dead workers.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import SIGKILL

from .jobs import endless
from .journal import BEGAN, Line, read_all
from .place import Place
from .processes import Child, Processes
from .schedule import WORKER
from .soak import tables

#: A job of a dead worker runs again within this time.
BOUND_SECONDS = 2.0

#: Longest pause before a blow, in seconds.
PAUSE_SECONDS = 0.4

#: Seconds after which a job is lost.
PATIENCE_SECONDS = 30.0

#: Seconds between two looks.
STEP_SECONDS = 0.02

#: One that is busy, one that is idle, and one that comes up.
WORKERS = 3


@dataclass(frozen=True)
class Rescues:
    """How long each took, in seconds, and how much too long a sleeper slept meanwhile: what a
    busy machine adds to everything."""

    database: str
    seconds: list[float]
    overslept: list[float]

    @property
    def is_right(self) -> bool:
        """Whether each was in time, as far as that was the library's doing."""
        pairs = zip(self.seconds, self.overslept, strict=True)
        return all(seconds <= BOUND_SECONDS + overslept for seconds, overslept in pairs)

    def __str__(self) -> str:
        return (
            f"{self.database}: rescue: p50 {statistics.median(self.seconds):.2f} s "
            f"max {max(self.seconds):.2f} s of {len(self.seconds)} "
            f"(the machine kept a sleeper waiting for {max(self.overslept):.2f} s)"
        )


def measure(place: Place, times: int) -> Rescues:
    """Kill the worker of one running job so often; raises RuntimeError if it never runs again."""
    chance, processes = random.Random(place.seed), Processes(place, WORKERS)
    with tables(place):
        try:
            processes.fill()
            _wait(lambda: len(processes.free(WORKER)) == WORKERS)
            with place.queue(threads=0) as queue:
                queue.perform(endless)
            last, _ = _next_attempt(place, after=0.0)
            found, overslept = [], []
            for _ in range(times):
                _wait(lambda: len(processes.free(WORKER)) >= WORKERS - 1)
                time.sleep(chance.random() * PAUSE_SECONDS)
                busy = _named(processes, last.child)
                busy.send(SIGKILL)
                last, late = _next_attempt(place, after=busy.struck_at)
                found.append(last.seconds - busy.struck_at)
                overslept.append(late)
                busy.process.wait()
                processes.reap()
                processes.fill()
        finally:
            processes.kill()
    return Rescues(place.database, found, overslept)


def _named(processes: Processes, name: str) -> Child:
    return next(child for child in processes.children if child.name == name)


def _next_attempt(place: Place, *, after: float) -> tuple[Line, float]:
    """Wait for the next attempt's first line; return it, and what ``_wait`` returns."""
    found: list[Line] = []

    def look() -> bool:
        found[:] = [
            line for line in read_all(place.folder) if line.word == BEGAN and line.seconds > after
        ]
        return bool(found)

    overslept = _wait(look)
    return min(found), overslept


def _wait(come: Callable[[], bool]) -> float:
    """Wait until that is true; return all the seconds that the looks in between came late."""
    begun_at, overslept = time.monotonic(), 0.0
    while not come():
        asleep_at = time.monotonic()
        if asleep_at > begun_at + PATIENCE_SECONDS:
            raise RuntimeError(f"nothing has come for {PATIENCE_SECONDS:g} s")
        time.sleep(STEP_SECONDS)
        overslept += time.monotonic() - asleep_at - STEP_SECONDS
    return overslept
