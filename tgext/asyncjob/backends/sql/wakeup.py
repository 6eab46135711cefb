"""Wake-ups of waiting worker threads.

    another process commits --> listener --.
    this process enqueues  ----------------+--> wake --> a thread waits no longer --> claims
    a delayed job becomes due -------------'

One thread listens for all waiting threads. A notification is only a hint: the thread that is woken
claims, and may find nothing. In case one is lost, each round of the registry reads the table too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from .listener import Listener, Polling

log = logging.getLogger(__name__)

#: Seconds until a new listener is made after an error: at first, and at most; doubled in between.
FAULT_SECONDS = (0.2, 5.0)

#: How often a thread that waits for a job's end reads the table, in seconds.
LOOK_SECONDS = 0.2


class Look(NamedTuple):
    """The result of a look at the table."""

    is_waiting: bool  #: a job can be claimed now
    due_seconds: float | None  #: until the next delayed job is due; None: there is none


class Wakeup:
    """make_listener: called by the listening thread. look: reads the table, for some queues."""

    def __init__(
        self,
        make_listener: Callable[[], Listener],
        look: Callable[[Collection[str] | None], Look],
    ) -> None:
        self._make_listener = make_listener
        self._look = look
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._ended = threading.Condition()
        self._awaiting = 0
        self._wakeups = 0
        self._waiting: Counter[tuple[str, ...] | None] = Counter()
        self._seen = threading.local()
        self._due_at: float | None = None  # by time.monotonic()
        self._was_notified = False
        self._listener: Listener | None = None
        self._queues: Collection[str] | None = None
        self._is_serving = False
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    # -- wait

    def note_seen(self) -> None:
        """Note, before a look, the present number of wake-ups: later ones must wake this thread."""
        self._seen.wakeups = self._wakeups

    def wait(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        """Return when a job may be claimable that was not at this thread's last look."""
        until = time.monotonic() + seconds
        if self._thread is None and self._is_serving:
            self._listen()
        seen: int | None = getattr(self._seen, "wakeups", None)
        self._seen.wakeups = None
        if seen is None:
            seen = self._wakeups
            if stopped():
                return
            found = self._look(queues)
            self.due_in(found.due_seconds)
            if found.is_waiting:
                return
        with self._changed:
            served = None if queues is None else tuple(queues)
            self._waiting[served] += 1
            try:
                while self._wakeups == seen and not stopped():
                    now = time.monotonic()
                    left = until - now
                    if self._due_at is not None:
                        left = min(left, self._due_at - now)
                    if left <= 0:
                        return
                    self._changed.wait(left)
            finally:
                self._waiting[served] -= 1
                if not self._waiting[served]:
                    del self._waiting[served]

    def wait_for_end(self, seconds: float) -> None:
        """Return at the next end of a job in this process, at the latest after LOOK_SECONDS."""
        with self._ended:
            self._awaiting += 1
            self._ended.wait(min(seconds, LOOK_SECONDS))
            self._awaiting -= 1

    # -- wake

    def wake(self, threads: int = 1) -> None:
        """Wake *threads* threads; one that finds more than it can claim wakes another."""
        with self._changed:
            self._wakeups += 1
            if len(self._waiting) > 1:  # they serve different queues
                self._changed.notify_all()
            else:
                self._changed.notify(threads)

    def wake_all(self) -> None:
        """Wake all threads, so that each checks whether it is to stop."""
        with self._changed:
            self._wakeups += 1
            self._changed.notify_all()

    def ended(self) -> None:
        """Wake the threads that wait for the end of a job."""
        if self._awaiting:
            with self._ended:
                self._ended.notify_all()

    def due_in(self, seconds: float | None) -> None:
        """Wake a thread after *seconds*, when a delayed job is due; None: none is."""
        if seconds is None:
            return
        due_at = time.monotonic() + max(seconds, 0.0)
        with self._changed:
            if self._due_at is None or due_at < self._due_at:
                self._due_at = due_at
                self._changed.notify_all()

    def is_due(self) -> bool:
        """Whether a delayed job is known to be due; True once for each due time."""
        due_at = self._due_at
        if due_at is None or due_at > time.monotonic():
            return False
        self._due_at = None
        return True

    def forget_due(self) -> None:
        """Forget, before a look, the due time that has come; else no thread could wait."""
        self.is_due()

    def look(self) -> None:
        """Read the table, and wake a thread if a job can be claimed."""
        self.found(self._look(self._queues))

    def was_notified(self) -> bool:
        """Whether there was a notification since the last call."""
        before, self._was_notified = self._was_notified, False
        return before

    def found(self, look: Look) -> None:
        """Use a look at the table: wake a thread if a job can be claimed, or when one is due."""
        self.due_in(look.due_seconds)
        if look.is_waiting:
            self.wake()

    @property
    def queues(self) -> Collection[str] | None:
        """Names of the queues to look for; None: all."""
        return self._queues

    def poll_faster(self) -> None:
        """Poll faster for a while, after an event that others may follow."""
        if isinstance(self._listener, Polling):
            self._listener.poll_faster()

    # -- the listening thread

    def serve(self, queues: Collection[str] | None) -> None:
        """Listen for jobs in *queues*, from the first wait on; None: in all."""
        self._queues, self._is_serving = queues, True

    def _listen(self) -> None:
        with self._changed:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="asyncjob-wakeup", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self.wake_all()
        listener, thread = self._listener, self._thread
        if thread is not None and thread is not threading.current_thread():
            if listener is not None:
                with suppress(Exception):  # the database may be what is gone
                    listener.interrupt()
            thread.join(FAULT_SECONDS[1])

    def after_fork(self) -> None:
        """Begin anew: the thread is the parent's."""
        self._inherited = self._listener  # kept, and never closed
        self._begin()

    def _run(self) -> None:
        fault_seconds = FAULT_SECONDS[0]
        while not self._stop.is_set():
            try:
                listener = self._listener = self._make_listener()
                try:
                    self.look()  # for jobs from before it listened
                    while not self._stop.is_set():
                        self._notified(listener.listen(self._stop), listener.looks_first)
                        fault_seconds = FAULT_SECONDS[0]
                finally:
                    listener.close()
            except Exception as error:  # noqa: BLE001 - it must listen again after any error
                log.warning(
                    "cannot listen for new jobs, trying again in %.1fs: %s", fault_seconds, error
                )
                self._stop.wait(fault_seconds)
                fault_seconds = min(2 * fault_seconds, FAULT_SECONDS[1])

    def _notified(self, queue_names: list[str] | None, looks_first: bool) -> None:
        self._was_notified = True
        if queue_names is None:
            if self._waiting:
                self.look() if looks_first else self.wake()
        elif self._queues is None or not set(queue_names).isdisjoint(self._queues):
            self.wake()
