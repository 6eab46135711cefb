"""How long nothing was heard of a worker, by this process's own clock.

What a worker says changes with each beat, and how long it has not changed is counted from look to
look. Neither the database's clock nor the machine's is asked, so that neither can make a worker
silent by a step. A look that fails counts for nothing, and a long pause between two for little:
while the database was away, or this process was stopped, the others may have been as well. And who
is not heard may not call others silent: the database may take no writes for a while, or let them
wait. So silence that lasts is counted on only while a beat of our own comes through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from sqlalchemy.exc import DBAPIError

from ..worker_id import lease_of

log = logging.getLogger(__name__)

#: The most that counts from one look to the next, in seconds: two rounds of rescue.
MOST_SECONDS = 3.0

#: And in parts of the lease: nobody is given up for what one pause hid.
MOST_OF_LEASE = 0.5

#: How long a beat may take that did not have to wait for others' locks, in seconds.
PROMPT_SECONDS = 0.5


class Silence:
    """lease_seconds: of a worker whose id does not tell its own. monotonic: tells seconds."""

    def __init__(self, lease_seconds: float, monotonic: Callable[[], float]) -> None:
        self.lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._looked_at: float | None = None
        self._before: float | None = None  # the look before the one that is under way
        self._heard: dict[str, tuple[object, float]] = {}  # the last, and for how long the same

    def look(self) -> None:
        """Begin a look; one that fails is followed by no ``heard``."""
        self._before, self._looked_at = self._looked_at, None

    def heard(self, said: Mapping[str, object]) -> None:
        """Note what the look has shown: what each worker that there is has said last."""
        self._looked_at = now = self._monotonic()
        passed = 0.0 if self._before is None else min(now - self._before, MOST_SECONDS)
        before, self._heard = self._heard, {}
        for worker_id, word in said.items():
            last, seconds = before.get(worker_id, (None, 0.0))
            is_new = worker_id not in before or last != word
            most = MOST_OF_LEASE * self.lease_of(worker_id)
            self._heard[worker_id] = (word, 0.0 if is_new else seconds + min(passed, most))

    def is_over_lease(self, worker_id: str) -> bool:
        """Whether a worker was silent for longer than it may be."""
        _, seconds = self._heard.get(worker_id, (None, 0.0))
        return seconds > self.lease_of(worker_id)

    def is_near(self) -> bool:
        """Whether anybody is silent for so long that it matters who can be heard at all."""
        most = MOST_OF_LEASE
        return any(
            seconds >= most * self.lease_of(who) for who, (_, seconds) in self._heard.items()
        )

    def unless_heard(self, beat: Callable[[], object]) -> None:
        """Count anew if our own *beat* fails or has to wait: others would be as silent."""
        begun = self._monotonic()
        try:
            beat()
        except DBAPIError as error:
            log.info("not counting who is silent, while this worker cannot be heard: %s", error)
        else:
            if self._monotonic() - begun < PROMPT_SECONDS:
                return
        self.forget()

    def lease_of(self, worker_id: str) -> float:
        """Return how long a worker may be silent, in seconds."""
        told = lease_of(worker_id)
        return self.lease_seconds if told is None else told

    def forget(self) -> None:
        """Count anew from the next look on."""
        self._looked_at = self._before = None
        self._heard.clear()
