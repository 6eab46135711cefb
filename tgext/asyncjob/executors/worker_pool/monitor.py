"""Wait for the events of a pool: frames, space to write, deaths of workers, a wake-up."""

from __future__ import annotations

import contextlib
import os
import selectors
import time

from .worker_handle import WorkerHandle

#: Seconds between checks of workers that send nothing. A process that a worker has forked can hold
#: its channel open and hide its death.
CHECK_SECONDS = 1.0


class Monitor:
    """Waits for the events of one pool. Other threads may call only ``add`` and ``wake``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._wake_sender = os.pipe()
        os.set_blocking(self._wake_receiver, False)
        os.set_blocking(self._wake_sender, False)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ)
        self._workers: dict[int, WorkerHandle] = {}
        self._clogged: set[int] = set()
        self._next_check = time.monotonic() + CHECK_SECONDS

    def add(self, worker: WorkerHandle) -> None:
        """Monitor the channel of *worker* from now on."""
        assert worker.channel is not None
        self._workers[worker.channel.fileno()] = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def remove(self, worker: WorkerHandle) -> None:
        """Stop monitoring *worker*. Call it before its channel is closed."""
        assert worker.channel is not None
        del self._workers[worker.channel.fileno()]
        self._clogged.discard(worker.channel.fileno())
        self._selector.unregister(worker.channel)

    def wake(self) -> None:
        """Make ``wait`` return."""
        # A wake-up is pending already, or the monitor is closed.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_sender, b"!")

    def wait(self) -> tuple[list[WorkerHandle], list[WorkerHandle]]:
        """Wait for an event.

        Returns the workers that can be read or written again, and, once per CHECK_SECONDS, those
        that sent nothing.
        """
        self._watch_for_space()
        ready = []
        for key, _ in self._selector.select(CHECK_SECONDS):
            if key.data is not None:
                ready.append(key.data)
                continue
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_receiver, 4096)
        now = time.monotonic()
        if now < self._next_check:
            return ready, []
        self._next_check = now + CHECK_SECONDS
        return ready, [worker for worker in self._workers.values() if worker not in ready]

    def _watch_for_space(self) -> None:
        for fd, worker in self._workers.items():
            assert worker.channel is not None
            is_clogged = worker.channel.is_clogged
            if is_clogged == (fd in self._clogged):
                continue
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_clogged else 0)
            self._selector.modify(fd, events, worker)
            self._clogged ^= {fd}

    def close(self) -> None:
        """Release the descriptors; a second call does nothing."""
        if self._wake_receiver < 0:
            return
        self._selector.close()
        for fd in (self._wake_receiver, self._wake_sender):
            os.close(fd)
        self._wake_receiver = self._wake_sender = -1
