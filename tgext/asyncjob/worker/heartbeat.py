"""The heartbeat of a worker, and what it means for what runs that none comes through.

    heart      beats; what others have taken meanwhile is lost
    watch      sees to it that beats come through, and touches no store itself
    look       reads whose the claims are, while no beat comes through

Where nothing comes through for a lease, others have taken what runs here, and it is stopped. Where
the database can be read and takes no writes, or lets them wait, what stands there counts.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection

from ..backends.base import ClaimingBackend
from ..job import WorkerId
from .timeouts import GRACE_SECONDS

log = logging.getLogger(__name__)

#: Heartbeats in the time of one lease: three may get lost.
BEATS = 4


class Heart:
    """Of one worker. lose: stops what runs for these claims, for all where it is given None."""

    def __init__(
        self,
        worker_id: WorkerId,
        backend: ClaimingBackend,
        lease_seconds: float,
        *,
        lose: Callable[[Collection[tuple[str, int]] | None], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker_id = worker_id
        self._backend = backend
        self._lease_seconds = lease_seconds
        self._lose = lose
        self._monotonic = monotonic
        self._silent_since: float | None = None  # the first beat that has not come through, yet
        self._looking: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._beaten_at = self._monotonic()  # the last beat that came through
        self._held_at = self._beaten_at  # when the claims were last known to be ours

    def beat_until(self, ended: threading.Event) -> None:
        """Beat until the last slot has ended, and stop what is lost."""
        pause_seconds = self._lease_seconds / BEATS
        while not ended.wait(pause_seconds * random.uniform(0.9, 1.0)):
            pause_seconds = self._lease_seconds / BEATS
            if not self.beat():  # soon again: others may see by it that this worker is dead
                pause_seconds = min(GRACE_SECONDS, pause_seconds)

    def beat(self) -> bool:
        """Beat once; tell whether it has come through."""
        begun_at = self._monotonic()  # others may count from here on: its answer may be late
        if self._silent_since is None:
            self._silent_since = begun_at
        if not self._hear(self._backend.heartbeat, "say that this worker lives"):
            return False
        self._beaten_at, self._silent_since = begun_at, None
        return True

    def see_to(self) -> float:
        """Stop everything once nothing has come through for a lease, also where a beat hangs:
        others have it by then, and nothing of it can be committed. Return when to look again."""
        now, since = self._monotonic(), self._silent_since
        pause_seconds = max(GRACE_SECONDS, self._lease_seconds / BEATS)
        held_at = max(self._beaten_at, self._held_at)
        if since is not None and now >= max(since, held_at) + pause_seconds:
            self._begin_look()
        # After a pause of the whole process the heart comes first.
        if since is not None and now >= max(held_at + self._lease_seconds, since + GRACE_SECONDS):
            self._lose(None)
        return now + pause_seconds

    def _begin_look(self) -> None:
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(target=self._look, name="asyncjob-look", daemon=True)
            self._looking.start()

    def _look(self) -> None:
        begun_at = self._monotonic()
        if self._hear(self._backend.lost, "see what this worker holds"):
            self._held_at = begun_at

    def _hear(self, ask: Callable[[WorkerId], Collection[tuple[str, int]]], what: str) -> bool:
        """Stop what *ask* finds to be lost; tell whether it has come through."""
        try:
            lost = ask(self._worker_id)
        except Exception as error:
            if self._backend.is_passing(error):
                log.warning("could not %s: %s", what, error)
            else:
                log.exception("could not %s", what)
            return False
        if lost:
            self._lose(set(lost))
        return True
