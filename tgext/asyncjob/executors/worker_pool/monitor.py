"""What the thread of a crew waits for: frames, room for frames, deaths, a call to look again."""

from __future__ import annotations

import contextlib
import os
import selectors
import time

from .worker_handle import Slot

#: How often to look after workers that nothing is heard of, in seconds. What a worker has forked
#: itself can hold its channel open and hide its death.
ROUND_SECONDS = 1.0


class Lookout:
    """See the module. Only ``look_again`` is for other threads."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._ear, False)
        os.set_blocking(self._mouth, False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._slots: dict[int, Slot] = {}
        self._clogged: set[int] = set()
        self._next_round = time.monotonic() + ROUND_SECONDS

    def watch(self, slot: Slot) -> None:
        """Look at the channel of *slot* from now on; from any thread."""
        assert slot.channel is not None
        self._slots[slot.channel.fileno()] = slot
        self._selector.register(slot.channel, selectors.EVENT_READ, slot)

    def forget(self, slot: Slot) -> None:
        """Look at it no more; before its channel is closed."""
        assert slot.channel is not None
        del self._slots[slot.channel.fileno()]
        self._clogged.discard(slot.channel.fileno())
        self._selector.unregister(slot.channel)

    def look_again(self) -> None:
        """Have ``look`` return."""
        with contextlib.suppress(BlockingIOError, OSError):  # it has been told already, or ended
            os.write(self._mouth, b"!")

    def look(self) -> tuple[list[Slot], list[Slot]]:
        """Wait for something to happen.

        Returns the slots that there is something to read from or that have room again, and,
        once in a while, those of which nothing is heard.
        """
        self._watch_for_room()
        ready = []
        for key, _ in self._selector.select(ROUND_SECONDS):
            if key.data is not None:
                ready.append(key.data)
                continue
            with contextlib.suppress(BlockingIOError):
                os.read(self._ear, 4096)
        now = time.monotonic()
        if now < self._next_round:
            return ready, []
        self._next_round = now + ROUND_SECONDS
        return ready, [slot for slot in self._slots.values() if slot not in ready]

    def _watch_for_room(self) -> None:
        for fd, slot in self._slots.items():
            assert slot.channel is not None
            is_clogged = slot.channel.is_clogged
            if is_clogged == (fd in self._clogged):
                continue
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_clogged else 0)
            self._selector.modify(fd, events, slot)
            self._clogged ^= {fd}

    def close(self) -> None:
        """Let go of everything; twice is no error."""
        if self._ear < 0:
            return
        self._selector.close()
        for fd in (self._ear, self._mouth):
            os.close(fd)
        self._ear = self._mouth = -1
