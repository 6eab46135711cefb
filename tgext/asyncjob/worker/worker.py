"""The worker: slots that claim and run, and the threads that see to them.

    slots     claim, run, store outcomes                      (thread.py)
    watch     timeouts; touches no store, which may be slow   wakes upkeep when a slot needs relief
    upkeep    relief of slots, rescue of dead workers' jobs, pruning
    heart     says that this worker lives; what it has lost is interrupted

All threads are daemons: one that is no daemon would hold up the interpreter's exit until its job
ends. On a backend that no other process sees there is no heart, and the watch does the upkeep.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from ..bounded import within
from ..job import WorkerId
from . import job_log
from .environment import AttemptEnvironment
from .heartbeat import Heart
from .thread import LONGEST_SLEEP, Slot
from .timeouts import GRACE_SECONDS, Timeouts

log = logging.getLogger(__name__)


#: Seconds between looks for dead workers: with it a job of one runs again within 2 s.
RESCUE_SECONDS = 1.5

#: Seconds between looks who holds a lock, while anything runs.
LOCK_SECONDS = 0.5

#: Seconds between prunings.
PRUNE_SECONDS = 60.0

#: Seconds that a worker which stops waits for each of the things that it has to tell a database.
LEAVE_SECONDS = 2.0


class Worker:
    """Runs what the backend has for *queues*, on *threads* threads, until it is stopped.

    worker_id: what it claims as. queues: names to serve; None: all. threads: 0: it works in its
    caller's, and leaves rescue and pruning to others. lease_seconds: how long it may be silent.
    expendable: whether its death is no crash of what it runs. Started once, stopped once.
    """

    def __init__(
        self,
        worker_id: WorkerId,
        environment: AttemptEnvironment,
        *,
        threads: int,
        queues: Collection[str] | None,
        lease_seconds: float = 20.0,
        expendable: bool = False,
    ) -> None:
        self.id = worker_id
        self._backend = environment.backend
        self._environment = environment
        self._queues = queues
        self._threads = threads
        self._lease_seconds = lease_seconds
        self._expendable = expendable
        #: of each slot; set before the start
        self.leave_after: float | None = None
        self._stopping = threading.Event()
        self._ended = threading.Event()  # after the last slot: until then it lives
        self._look = threading.Event()  # tells the watch that there is a new deadline
        self._relief = threading.Event()
        self._lock = threading.RLock()
        self._slots: set[Slot] = set()
        self._timeouts = Timeouts(
            self._backend, threads, forget=self._forget, replace=self._add_slot,
            relieve=self._relief.set,
        )  # fmt: skip
        self._heart = Heart(self.id, self._backend, lease_seconds, lose=self._lose)
        self._watches_locks = False
        self._made = 0
        self._ran = 0
        self._others: list[threading.Thread] = []  # that see to the slots

    def start(self) -> None:
        """Begin to claim."""
        job_log.install()
        try:
            self._backend.register(
                self.id, self._queues, self._threads, expendable=self._expendable
            )
        except Exception:
            # The slots and the heart come back to it.
            log.exception("cannot register the worker yet")
        if self.leave_after is not None:  # what a dead worker left is due, too
            self._try(self._backend.rescue, "look for dead workers")
        for _ in range(self._threads):
            self._add_slot()
        self._start_others()

    def _start_others(self) -> None:
        """Start the threads that see to the slots, once."""
        if self._others:
            return
        self._heart.start()  # it has been registered, which may have taken long
        loops = {"watch": self._watch}
        if self._backend.is_shared:
            loops |= {"upkeep": self._upkeep, "heart": lambda: self._heart.beat_until(self._ended)}
        self._others = [
            threading.Thread(target=loop, name=f"asyncjob-{name}", daemon=True)
            for name, loop in loops.items()
        ]
        for thread in self._others:
            thread.start()

    @property
    def ran(self) -> int:
        """How many jobs it has run."""
        with self._lock:
            return self._ran + sum(slot.ran for slot in self._slots)

    @property
    def has_left(self) -> bool:
        """Whether every slot has ended."""
        with self._lock:
            return self._made > 0 and not self._slots

    @property
    def is_worn(self) -> bool:
        """Whether too many of its threads hang in jobs for good."""
        return self._timeouts.is_worn

    def stop(self, drain_seconds: float) -> None:
        """Claim nothing more; give what runs *drain_seconds*, then give it back.

        Returns when every slot has ended or its job has been given back.
        """
        self._stopping.set()
        self._look.set()
        self._relief.set()
        self._backend.wake()
        self._leave(GRACE_SECONDS, lambda: self._backend.retire(self.id), "say that it stops")
        if not self._join(drain_seconds):
            self.hurry()
        self._end_others()

    def _end_others(self) -> None:
        """Let the threads that see to the slots end."""
        self._ended.set()
        self._look.set()
        self._relief.set()
        me = threading.current_thread()
        for thread in self._others:
            if thread is not me and thread.is_alive():
                thread.join(GRACE_SECONDS)
        self._leave(LEAVE_SECONDS, self._timeouts.store_outcomes, "store that a job has timed out")

    def hurry(self) -> None:
        """Give back what runs, now."""
        for slot in self._slots_but_mine():
            slot.stop()
        if not self._join(GRACE_SECONDS):
            left = self._slots_but_mine()
            self._leave(LEAVE_SECONDS, lambda: self._give_back(left), "give back what runs")
        self._join(GRACE_SECONDS)

    def _give_back(self, slots: list[Slot]) -> None:
        for slot in slots:
            self._try(slot.give_back, "give back what runs")

    def _leave(self, seconds: float, act: Callable[[], object], what: str) -> None:
        """Do what asks the backend on the way out: its server may never answer."""
        if self._backend.is_shared:
            within(seconds, lambda: self._try(act, what), what)
        else:
            self._try(act, what)

    # -- slots

    def _make_slot(self, kind: type[Slot]) -> Any:
        self._made += 1
        return kind(
            f"asyncjob-{self._made}",
            self._environment,
            (self.id, self._queues),
            stopping=self._stopping,
            look=self._look.set,
            ended=self._forget,
        )

    def _add_slot(self) -> None:
        with self._lock:
            if self._stopping.is_set() or not self._threads:
                return
            slot = self._make_slot(Slot)
            slot.leave_after = self.leave_after
            slot.start()
            self._slots.add(slot)

    def _slots_but_mine(self) -> list[Slot]:
        """The slots, but for the one that asks: a job may close its own queue."""
        with self._lock:
            return [slot for slot in self._slots if not slot.is_mine]

    def _join(self, seconds: float) -> bool:
        """Wait for the slots to end; True if they all have."""
        until = time.monotonic() + seconds
        for slot in self._slots_but_mine():
            slot.join(max(0.0, until - time.monotonic()))
        return not any(slot.is_alive() for slot in self._slots_but_mine())

    def _forget(self, slot: Slot) -> None:
        with self._lock:
            if slot in self._slots:
                self._slots.discard(slot)
                self._ran += slot.ran

    # -- the watch

    def _watch(self) -> None:
        due = math.inf if self._backend.is_shared or not self._threads else time.monotonic()
        while not self._ended.is_set():
            self._look.clear()
            nearest = time.monotonic() + LONGEST_SLEEP
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + PRUNE_SECONDS
                    self._backend.prune()
                nearest = min(self._timeouts.enforce(self._slots_but_mine()), self._see_to_relief())
                if self._backend.is_shared:
                    nearest = min(nearest, self._heart.see_to())
            except Exception:
                log.exception("the watch could not do its round")
            if self._stopping.is_set():
                self._ended.wait(GRACE_SECONDS)
            else:
                self._look.wait(max(0.0, min(due, nearest) - time.monotonic()))

    def _see_to_relief(self) -> float:
        """Have slots relieved that need it; return when to look again."""
        now = time.monotonic()
        nearest = now + LONGEST_SLEEP
        for slot in self._slots_but_mine():
            due = slot.relief_due()
            if due is not None:
                if due <= now:
                    self._relief.set()
                    due = now + GRACE_SECONDS
                nearest = min(nearest, due)
        return nearest

    # -- the upkeep

    def _upkeep(self) -> None:
        rescue_at = prune_at = time.monotonic() if self._threads else math.inf
        while not self._ended.is_set():
            self._relief.clear()
            for slot in self._slots_but_mine():
                due = slot.relief_due()
                if due is not None and due <= time.monotonic():
                    self._try(slot.relieve, "relieve a thread")
            self._try(self._timeouts.store_outcomes, "store that a job has timed out")
            now = time.monotonic()
            if self._stopping.is_set():
                rescue_at = prune_at = now + GRACE_SECONDS
            if now >= rescue_at:
                rescue_at = now + RESCUE_SECONDS * random.uniform(0.97, 1.0)
                self._try(self._backend.rescue, "look for dead workers")
            if now >= prune_at:
                prune_at = now + PRUNE_SECONDS * random.uniform(0.5, 1.5)
                self._try(self._backend.prune, "remove old jobs")
            self._try(self._watch_locks, "look who holds locks")
            look_at = time.monotonic() + (LOCK_SECONDS if self._watches_locks else LONGEST_SLEEP)
            self._relief.wait(max(0.0, min(rescue_at, prune_at, look_at) - time.monotonic()))

    def _watch_locks(self) -> None:
        """Have it said which job keeps others from writing, where one can."""
        begun_before = time.monotonic() - LOCK_SECONDS
        attempts = [slot.attempt for slot in self._slots_but_mine()]
        running = [
            (attempt.uid, connection)
            for attempt in attempts
            if attempt is not None and attempt.started < begun_before
            for connection in attempt.connections
        ]
        self._watches_locks = self._backend.watch_locks(self.id, running) and any(attempts)

    def _try(self, act: Callable[[], object], what: str) -> bool:
        try:
            act()
        except Exception as error:
            if self._backend.is_passing(error):
                log.warning("could not %s: %s", what, error)
            else:
                log.exception("could not %s", what)
            return False
        return True

    def _lose(self, claims: Collection[tuple[str, int]] | None) -> None:
        for slot in self._slots_but_mine():
            slot.lose(claims)
