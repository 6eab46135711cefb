"""Workers of Celery for the soak of limits: parents with children, and a Redis of their own."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery_fleet import CeleryWorker
from own_brokers import own_redis

#: Parents, and children of each.
PARENTS, CHILDREN = 2, 3

#: How many of a hundred blows hit a parent and all its children.
PARENTS_HIT = 20

#: Seconds in which a killed process is gone.
PATIENCE_SECONDS = 60.0


class CeleryWorkers:
    """begun: waits until some of these processes have begun a job, and returns them; note_death:
    called with the pid of each process that is certainly dead."""

    def __init__(
        self,
        options: dict[str, Any],
        folder: Path,
        begun: Callable[[Callable[[], list[int]]], list[int]],
        note_death: Callable[[int], object],
    ) -> None:
        self._options = options
        self._folder = folder
        self._begun = begun
        self._note_death = note_death
        self._made = 0
        self._parents = [self._start() for _ in range(PARENTS)]

    def _start(self) -> CeleryWorker:
        self._made += 1
        name = f"limits{self._made}@%h"
        return CeleryWorker(
            self._options, "-c", str(CHILDREN), "-n", name, folder=self._folder
        ).wait_until_ready()

    def strike(self) -> None:
        """Kill a child that has begun a job, or its parent with all children."""
        parent, pid = random.choice(self._at_work())
        is_parent = random.randrange(100) < PARENTS_HIT
        dead = parent.children() if is_parent else [pid]
        if is_parent:
            parent.kill()
        else:
            os.kill(pid, signal.SIGKILL)
        for each in dead:  # at once: their jobs may run again from now on
            wait_for_death(each)
            self._note_death(each)
        if is_parent:
            self._parents[self._parents.index(parent)] = self._start()

    def _at_work(self) -> list[tuple[CeleryWorker, int]]:
        begun = self._begun(lambda: [pid for each in self._parents for pid in each.children()])
        found = [(each, pid) for each in self._parents for pid in each.children() if pid in begun]
        return found or self._at_work()

    def end(self) -> None:
        """Let them end by themselves."""
        for parent in self._parents:
            parent.stop()


def wait_for_death(pid: int) -> None:
    """Return when a process runs no more; its parent may not have taken notice yet."""
    stat, deadline = Path(f"/proc/{pid}/stat"), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.002)  # the kernel tells its parent alone
    raise AssertionError(f"process {pid} does not die")


@contextmanager
def redis_options() -> Iterator[dict[str, Any]]:
    """Return the options of queues on a Redis that ends with the block."""
    with own_redis() as redis:
        yield {"engine": "celery", "broker_url": redis.url}
