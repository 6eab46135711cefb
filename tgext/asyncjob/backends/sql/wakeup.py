"""Who wakes a worker's sleeping threads, and when.

    another process commits --> ears --.
    this process enqueues  -----------> wake --> a thread sleeps no more --> claims
    a delayed job's time comes --------'

One thread listens, for all that sleep. What it hears is a hint: whoever wakes claims, and finds
something or does not. Below that stands a look at the table with each round of the registry.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from .listener import Ears, Polling

log = logging.getLogger(__name__)

#: Seconds until the ears are tried again after an error, doubled up to the last.
FAULT_SECONDS = (0.2, 5.0)

#: How long a waiter for a job's end goes without looking, in seconds.
LOOK_SECONDS = 0.2


class Look(NamedTuple):
    """What a look at the table shows."""

    is_waiting: bool  #: something can be claimed now
    due_seconds: float | None  #: until the next delayed job is due; None: there is none


class Wakeup:
    """make_ears: called by the listening thread. look: at the table, for some queues."""

    def __init__(
        self,
        make_ears: Callable[[], Ears],
        look: Callable[[Collection[str] | None], Look],
    ) -> None:
        self._make_ears = make_ears
        self._look = look
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._ended = threading.Condition()
        self._awaiting = 0
        self._tickets = 0
        self._sleeping: Counter[tuple[str, ...] | None] = Counter()
        self._seen = threading.local()
        self._due_at: float | None = None  # by time.monotonic()
        self._ears: Ears | None = None
        self._queues: Collection[str] | None = None
        self._listener: threading.Thread | None = None
        self._stop = threading.Event()

    # -- who sleeps

    def about_to_look(self) -> None:
        """Note what this thread has seen: what comes later must wake it."""
        self._seen.tickets = self._tickets

    def sleep(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        """Return when something may be claimable that was not at this thread's last look."""
        until = time.monotonic() + seconds
        seen: int | None = getattr(self._seen, "tickets", None)
        self._seen.tickets = None
        if seen is None:
            seen = self._tickets
            if stopped():
                return
            found = self._look(queues)
            self.due_in(found.due_seconds)
            if found.is_waiting:
                return
        with self._changed:
            bed = None if queues is None else tuple(queues)
            self._sleeping[bed] += 1
            try:
                while self._tickets == seen and not stopped():
                    now = time.monotonic()
                    left = until - now
                    if self._due_at is not None:
                        left = min(left, self._due_at - now)
                    if left <= 0:
                        return
                    self._changed.wait(left)
            finally:
                self._sleeping[bed] -= 1
                if not self._sleeping[bed]:
                    del self._sleeping[bed]

    def sleep_until_end(self, seconds: float) -> None:
        """Return after the next end of a job in this process, or a moment."""
        with self._ended:
            self._awaiting += 1
            self._ended.wait(min(seconds, LOOK_SECONDS))
            self._awaiting -= 1

    # -- who wakes

    def wake(self, threads: int = 1) -> None:
        """Wake some; who finds more than it can take wakes another."""
        with self._changed:
            self._tickets += 1
            if len(self._sleeping) > 1:  # it is not known here whom it concerns
                self._changed.notify_all()
            else:
                self._changed.notify(threads)

    def wake_all(self) -> None:
        """Wake all, to see that they are to stop."""
        with self._changed:
            self._tickets += 1
            self._changed.notify_all()

    def ended(self) -> None:
        """Wake those who wait for the end of a job."""
        if self._awaiting:
            with self._ended:
                self._ended.notify_all()

    def due_in(self, seconds: float | None) -> None:
        """Wake somebody when a delayed job will be due."""
        if seconds is None:
            return
        due_at = time.monotonic() + max(seconds, 0.0)
        with self._changed:
            if self._due_at is None or due_at < self._due_at:
                self._due_at = due_at
                self._changed.notify_all()

    def is_due(self) -> bool:
        """Whether, as far as is known, the time of a delayed job has come; true once."""
        due_at = self._due_at
        if due_at is None or due_at > time.monotonic():
            return False
        self._due_at = None
        return True

    def look(self) -> None:
        """Look at the table and wake whoever has something to do."""
        self.found(self._look(self._queues))

    def found(self, look: Look) -> None:
        """Wake whoever has something to do, as a look at the table has shown."""
        self.due_in(look.due_seconds)
        if look.is_waiting:
            self.wake()

    @property
    def queues(self) -> Collection[str] | None:
        """What to look for; None: any."""
        return self._queues

    def stir(self) -> None:
        """Something has happened here: more may follow, so listen more closely."""
        if isinstance(self._ears, Polling):
            self._ears.stir()

    # -- the thread that listens

    def listen(self, queues: Collection[str] | None) -> None:
        """Begin to listen for what comes into *queues*; None: any."""
        self._queues = queues
        if self._listener is None:
            self._listener = threading.Thread(target=self._run, name="asyncjob-wakeup", daemon=True)
            self._listener.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self.wake_all()
        ears, listener = self._ears, self._listener
        if listener is not None and listener is not threading.current_thread():
            if ears is not None:
                with suppress(Exception):  # the database may be what is gone
                    ears.interrupt()
            listener.join(FAULT_SECONDS[1])

    def after_fork(self) -> None:
        """Begin anew: the thread is the parent's."""
        self._inherited = self._ears  # kept, and never closed
        self._begin()

    def _run(self) -> None:
        fault_seconds = FAULT_SECONDS[0]
        while not self._stop.is_set():
            try:
                ears = self._ears = self._make_ears()
                try:
                    self.look()  # what came before they were there
                    while not self._stop.is_set():
                        self._heard(ears.listen(self._stop), ears.looks_first)
                        fault_seconds = FAULT_SECONDS[0]
                finally:
                    ears.close()
            except Exception as error:  # noqa: BLE001 - it must hear again, whatever it was
                log.warning(
                    "cannot hear of new jobs, trying again in %.1fs: %s", fault_seconds, error
                )
                self._stop.wait(fault_seconds)
                fault_seconds = min(2 * fault_seconds, FAULT_SECONDS[1])

    def _heard(self, queue_names: list[str] | None, looks_first: bool) -> None:
        if queue_names is None:
            if self._sleeping:
                self.look() if looks_first else self.wake()
        elif self._queues is None or not set(queue_names).isdisjoint(self._queues):
            self.wake()
