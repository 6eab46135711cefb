"""What the measured jobs do: next to nothing, and the same for every contender.

They are module-level functions, because that is what every contender can find again.
A job counts itself, which costs some 50 ns: the count is how a measurement knows that all
of its jobs have run, with contenders that keep no handle.
"""

import itertools
import queue
import threading
import time

#: nothing here waits longer: a contender that has lost a job ends the measurement
PATIENCE_SECONDS = 60.0


class Tally:
    """Count the jobs of one measurement and tell when the last has run."""

    def __init__(self) -> None:
        self.expect(0)

    def expect(self, jobs: int) -> None:
        """Begin again with *jobs* to come; nothing may be running meanwhile."""
        self.numbers = itertools.count(1)
        self.last = jobs
        self.complete = threading.Event()

    def wait(self) -> None:
        """Wait for the last job. Raises RuntimeError when it does not come."""
        if not self.complete.wait(PATIENCE_SECONDS):
            raise RuntimeError(
                f"expected {self.last} jobs, ran {next(self.numbers) - 1} in {PATIENCE_SECONDS} s"
            )


class Gate:
    """Keep workers busy without work: each waits inside a job until the gate opens."""

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        self._entered = threading.Semaphore(0)
        self._opened = threading.Event()

    def enter(self) -> None:
        self._entered.release()
        self._opened.wait(PATIENCE_SECONDS)

    def wait_for(self, workers: int) -> None:
        """Wait until so many workers are held. Raises RuntimeError when they do not come."""
        for held in range(workers):
            if not self._entered.acquire(timeout=PATIENCE_SECONDS):
                raise RuntimeError(f"expected {workers} workers at the gate, {held} came")

    def open(self) -> None:
        self._opened.set()


TALLY = Tally()
GATE = Gate()
#: the instants at which jobs ran
STAMPS: "queue.SimpleQueue[int]" = queue.SimpleQueue()


def tick() -> None:
    """Count this job: the no-op that is measured."""
    if next(TALLY.numbers) == TALLY.last:
        TALLY.complete.set()


def stamp() -> None:
    """Tell when this line ran."""
    STAMPS.put(time.perf_counter_ns())


def hold() -> None:
    """Wait at the gate: the job that holds a worker."""
    GATE.enter()
