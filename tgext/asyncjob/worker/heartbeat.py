"""The heartbeat of a worker, and the end of its attempts when heartbeats fail.

    heartbeat        renews the lease; claims that other workers have taken are lost
    timeout monitor  checks that heartbeats succeed, and uses no backend itself
    lease check      reads who has the claims, while heartbeats fail

If heartbeat and lease check both fail for the time of a lease, other workers may have taken the
jobs that run here, and their attempts are interrupted. If the database can be read but not written
to, its claims decide.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection

from ..backends.base import Backend
from ..job import WorkerId
from .thread import log_fault
from .timeouts import GRACE_SECONDS

#: Heartbeats in the time of one lease: three in a row may fail.
BEATS = 4


class Heartbeat:
    """The heartbeat of one worker.

    lease_seconds: how long a lease lasts without a heartbeat. revoke: called with the claims (uid,
    lease) whose attempts are to be interrupted; None: all. monotonic: a clock, in seconds.
    """

    def __init__(
        self,
        worker_id: WorkerId,
        backend: Backend,
        lease_seconds: float,
        *,
        revoke: Callable[[Collection[tuple[str, int]] | None], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker_id = worker_id
        self._backend = backend
        self._lease_seconds = lease_seconds
        self._revoke = revoke
        self._monotonic = monotonic
        self._silent_since: float | None = None  # when the first failed heartbeat began
        self._lease_check: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        """Count the lease from now on."""
        self._beaten_at = self._monotonic()  # when the last successful heartbeat began
        self._held_at = self._beaten_at  # when the claims were last read to be held

    def run_until(self, ended: threading.Event) -> None:
        """Send heartbeats until *ended* is set, and interrupt attempts whose claims are lost."""
        pause_seconds = self._lease_seconds / BEATS
        while not ended.wait(pause_seconds * random.uniform(0.9, 1.0)):
            pause_seconds = self._lease_seconds / BEATS
            if not self.beat():  # try again soon, before the lease ends
                pause_seconds = min(GRACE_SECONDS, pause_seconds)

    def beat(self) -> bool:
        """Send one heartbeat; return whether it succeeded."""
        begun_at = self._monotonic()  # the lease may count from here: the answer may be late
        if self._silent_since is None:
            self._silent_since = begun_at
        if not self._ask_backend(self._backend.heartbeat, "renew the lease of this worker"):
            return False
        self._beaten_at, self._silent_since = begun_at, None
        return True

    def check(self) -> float:
        """Interrupt all attempts if heartbeats have failed or hung for the time of a lease: other
        workers may have the jobs then. Return when to check again, by *monotonic*."""
        now, since = self._monotonic(), self._silent_since
        pause_seconds = max(GRACE_SECONDS, self._lease_seconds / BEATS)
        held_at = max(self._beaten_at, self._held_at)
        if since is not None and now >= max(since, held_at) + pause_seconds:
            self._start_lease_check()
        # After a pause of the whole process the heartbeat comes first.
        if since is not None and now >= max(held_at + self._lease_seconds, since + GRACE_SECONDS):
            self._revoke(None)
        return now + pause_seconds

    def _start_lease_check(self) -> None:
        if self._lease_check is None or not self._lease_check.is_alive():
            self._lease_check = threading.Thread(
                target=self._check_leases, name="asyncjob-lease-check", daemon=True
            )
            self._lease_check.start()

    def _check_leases(self) -> None:
        begun_at = self._monotonic()
        if self._ask_backend(self._backend.lost, "read which claims this worker holds"):
            self._held_at = begun_at

    def _ask_backend(
        self, ask: Callable[[WorkerId], Collection[tuple[str, int]]], what: str
    ) -> bool:
        """Revoke the claims that *ask* returns as lost; return whether it succeeded."""
        try:
            lost = ask(self._worker_id)
        except Exception as error:  # noqa: BLE001 - the worker survives each fault of the store
            log_fault(self._backend, f"could not {what}", error)
            return False
        if lost:
            self._revoke(set(lost))
        return True
