"""The worker: threads that claim jobs and run an attempt of each.

    backend --claim--> slot thread: Attempt.run() --finish--> backend
                           ^
                           | interrupt, abandon (and a new slot takes the place)
                       watch thread: timeouts, heartbeat, rescue, pruning

A slot claims for itself, one job at a time: between the claim and the first line of the job
stands no other thread, and never is more claimed than can be run. All threads are daemons: one
that is no daemon would hold up the interpreter's exit until its job ends.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection

from . import joblog
from .attempt import Attempt, Drained, Surroundings
from .current import queue_var
from .errors import JobTimeout
from .job import Claim, WorkerId

log = logging.getLogger(__name__)

#: Longest that a slot or the watch sleeps, in seconds: a net below the wake-ups, nothing else.
LONGEST_SLEEP = 60.0

#: Seconds between heartbeats, rescues and prunings.
WATCH_SECONDS = 5.0

#: Seconds in which an attempt that was interrupted may still end by itself. Code that holds
#: the interpreter, or sleeps in C, does not; then its slot is replaced.
GRACE_SECONDS = 0.25

#: How long a slot waits after an error of the backend's own, in seconds; doubled up to the last.
FAULT_SECONDS = (0.1, 30.0)


def new_worker_id() -> WorkerId:
    """Return an id that no other worker has or had: a pid repeats, in containers at once."""
    return WorkerId(f"{os.getpid()}-{os.urandom(6).hex()}")


class Worker:
    """Runs what the backend has for *queues*, on *threads* threads, until it is stopped.

    queues: names to serve; None: all. threads: 1 or more. Started once, stopped once.
    """

    def __init__(
        self, surroundings: Surroundings, *, threads: int, queues: Collection[str] | None
    ) -> None:
        self.id = new_worker_id()
        self._backend = surroundings.backend
        self._surroundings = surroundings
        self._queues = queues
        self._threads = threads
        self._stopping = threading.Event()
        self._look = threading.Event()  # tells the watch that there is a new deadline
        self._lock = threading.Lock()
        self._slots: set[_Slot] = set()
        self._made = 0
        self._watch = threading.Thread(target=self._watch_loop, name="asyncjob-watch", daemon=True)

    def start(self) -> None:
        """Begin to claim."""
        joblog.install()
        for _ in range(self._threads):
            self._add_slot()
        self._watch.start()

    def stop(self, drain_seconds: float) -> None:
        """Claim nothing more; give what runs *drain_seconds*, then give it back.

        Returns when every slot has ended or its job has been given back.
        """
        self._stopping.set()
        self._look.set()
        self._backend.wake()
        if not self._join(drain_seconds):
            for slot in self._others():
                slot.stop()
            if not self._join(GRACE_SECONDS):
                for slot in self._others():
                    slot.give_back()
            self._join(GRACE_SECONDS)
        self._watch.join(GRACE_SECONDS)

    # -- slots

    def _add_slot(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            self._made += 1
            slot = _Slot(self, f"asyncjob-{self._made}")
            slot.start()
            self._slots.add(slot)

    def _others(self) -> list[_Slot]:
        """The slots, but for the one that asks: a job may close its own queue."""
        me = threading.current_thread()
        with self._lock:
            return [slot for slot in self._slots if slot is not me]

    def _join(self, seconds: float) -> bool:
        """Wait for the slots to end; True if they all have."""
        until = time.monotonic() + seconds
        for slot in self._others():
            slot.join(max(0.0, until - time.monotonic()))
        return not any(slot.is_alive() for slot in self._others())

    def serve(self, slot: _Slot) -> None:
        """Claim and run until the worker stops, or *slot* is no longer wanted."""
        queue_var.set(self._surroundings.queue)
        fault_seconds = FAULT_SECONDS[0]
        while not self._stopping.is_set():
            try:
                claims = self._backend.claim(self.id, self._queues, 1)
                if not claims:
                    self._backend.wait(self._queues, LONGEST_SLEEP, self._stopping.is_set)
                fault_seconds = FAULT_SECONDS[0]
            except Exception:
                log.exception("cannot claim, trying again in %.1fs", fault_seconds)
                self._stopping.wait(fault_seconds)
                fault_seconds = min(2 * fault_seconds, FAULT_SECONDS[1])
                continue
            while claims:  # emptied: an idle slot must not keep the arguments of its last job
                if not self._run(slot, claims.pop(0)):
                    return

    def _run(self, slot: _Slot, claim: Claim) -> bool:
        slot.attempt = attempt = Attempt(claim, self._surroundings)
        if claim.job.options.timeout is not None:
            self._look.set()
        wanted = attempt.run()
        slot.attempt = None
        return wanted

    def ended(self, slot: _Slot) -> None:
        """Forget a slot whose thread ends."""
        with self._lock:
            self._slots.discard(slot)

    # -- the watch

    def _watch_loop(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            self._look.clear()
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + WATCH_SECONDS
                    self._backend.beat(self.id)
                    self._backend.rescue()
                    self._backend.prune()
                deadline = self._enforce_timeouts()
            except Exception:
                log.exception("the watch could not do its round")
                deadline = due
            self._look.wait(max(0.0, min(due, deadline) - time.monotonic()))

    def _enforce_timeouts(self) -> float:
        """Interrupt what is over its time and replace what does not care; return when to look
        again."""
        nearest = time.monotonic() + LONGEST_SLEEP
        for slot in self._others():
            deadline = slot.deadline()
            if deadline is None:
                continue
            now = time.monotonic()
            if now >= deadline + GRACE_SECONDS and slot.time_out():
                self.ended(slot)
                self._add_slot()
            else:
                nearest = min(nearest, deadline if now < deadline else now + GRACE_SECONDS / 4)
        return nearest


class _Slot(threading.Thread):
    """One thread of a worker, and the attempt that it runs, None between two."""

    def __init__(self, worker: Worker, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._worker = worker
        self.attempt: Attempt | None = None

    def run(self) -> None:
        try:
            self._worker.serve(self)
        finally:
            self._worker.ended(self)

    def deadline(self) -> float | None:
        """When the attempt is over its time; interrupts it if that is now."""
        attempt = self.attempt
        if attempt is None or attempt.claim.job.options.timeout is None:
            return None
        deadline = attempt.started + attempt.claim.job.options.timeout
        if time.monotonic() >= deadline:
            attempt.interrupt(JobTimeout)
        return deadline

    def time_out(self) -> bool:
        attempt = self.attempt
        return attempt is not None and attempt.time_out()

    def stop(self) -> None:
        attempt = self.attempt
        if attempt is not None:
            attempt.interrupt(Drained)

    def give_back(self) -> None:
        attempt = self.attempt
        if attempt is not None:
            attempt.give_back()
