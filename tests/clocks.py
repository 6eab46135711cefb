"""A clock that is told, and a gate that holds: what tests have instead of sleeps."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from typing import Any

#: How long a thread that is about to end may take to do so. No test waits for it that is right.
PATIENCE_SECONDS = 20.0


class FakeClock:
    """Seconds since the epoch that pass when they are told to."""

    def __init__(self, seconds: float = 1_700_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let some seconds pass."""
        self.seconds += seconds

    def now(self) -> datetime:
        """The moment as the library shows it: aware UTC."""
        return datetime.fromtimestamp(self.seconds, timezone.utc)

    def in_seconds(self, seconds: float) -> datetime:
        """The moment so many seconds from now."""
        return self.now() + timedelta(seconds=seconds)


def rescued_meanwhile(backend: Any, clock: FakeClock, seconds: float) -> int:
    """Let time pass for a process that looks for dead workers now and then, and goes by *clock*;
    return how many jobs it has rescued."""
    rescued = backend.rescue()
    until = clock.seconds + seconds
    while clock.seconds < until:
        clock.advance(min(1.5, until - clock.seconds))
        rescued += backend.rescue()
    return int(rescued)


class Gate:
    """Holds whatever enters it, in a blocking call, until it is opened."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._opened = threading.Event()

    def enter(self) -> None:
        """Wait at the gate; no exception raised in this thread ends that."""
        self._entered.release()
        if not self._opened.wait(30):
            raise RuntimeError("nobody opened the gate")

    def wait_for(self, threads: int = 1) -> None:
        """Return when so many threads more have come to the gate."""
        for _ in range(threads):
            assert self._entered.acquire(timeout=PATIENCE_SECONDS), "nobody came to the gate"

    def open(self) -> None:
        """Let everybody pass, from now on."""
        self._opened.set()
