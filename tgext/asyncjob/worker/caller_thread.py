"""The worker of ``run_pending()``: its one thread is the caller's.

    caller    claim, run, store outcomes, until nothing is due  (a slot as others)
    watch, upkeep, heart: as a worker's, from the first job on until the caller returns

So a job that takes long keeps its claim, a timeout ends it, and one whose claim was lost is
interrupted. What a worker's slot outlives is raised to the caller: he asked for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..job import Claim
from .thread import Slot
from .worker import Worker


class CallerSlot(Slot):
    """A slot whose thread is the one that calls ``serve``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._host = threading.current_thread()
        self._left = threading.Event()

    @property
    def is_mine(self) -> bool:
        return self._host is threading.current_thread()

    def is_alive(self) -> bool:
        return not self._left.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._left.wait(timeout)

    def serve(self, most: float, before_first: Callable[[], None]) -> bool:
        """Run what is due, *most* jobs at the most; False if the slot was given up with one."""
        claims: list[Claim] = []
        try:
            while self.ran < most and not self._stopping.is_set():
                claims = self._backend.claim(self._worker_id, self._queues, 1)
                if not claims:
                    return True
                before_first()
                if not self._run(claims[0]):
                    return False
                self._store_outcomes()
            return True
        except BaseException:  # from the keyboard, at any line
            with suppress(Exception):
                self._backend.release(claims)  # but for what has ended
            raise
        finally:
            self._left.set()
            self._on_end(self)


class CallerWorker(Worker):
    """Made for one call of ``run``, in the thread that makes it."""

    def run(self, limit: float) -> int:
        """Run what is due, *limit* jobs at the most; return how many.

        Raises what the backend raises. Whatever ends it, nothing is held by this worker then.
        """
        ran = 0
        try:
            while True:
                slot = self._host()
                is_through = slot.serve(limit - ran, self._start_others)
                ran += slot.ran
                if is_through:
                    return ran
        finally:
            self._stopping.set()
            self._end_others()
            self._try(lambda: self._backend.dismiss(self.id), "say that it has run what was due")

    def _host(self) -> CallerSlot:
        slot: CallerSlot = self._make_slot(CallerSlot)
        with self._lock:
            self._slots.add(slot)
        return slot
