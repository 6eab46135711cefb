"""How long a worker has sent no heartbeat, by this process's own clock.

Each heartbeat changes ``seen_at``; how long that has not changed is added up from look to look.
Neither the database's clock nor the machine's is used, so a step of one makes no worker silent. A
look that fails counts for nothing, and a long pause between two for little: while the database was
away, or this process was stopped, the others may have been as well. And the database may take no
writes for a while, or let them wait: then all workers are silent. So a long silence is added up
only while heartbeats of our own succeed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from sqlalchemy.exc import DBAPIError

from ..worker_id import lease_of

log = logging.getLogger(__name__)

#: The most that counts from one look to the next, in seconds: two rounds of rescue.
MOST_SECONDS = 3.0

#: And in parts of the lease: no worker is given up because of one pause.
MOST_OF_LEASE = 0.5

#: How long a heartbeat may take that did not have to wait for others' locks, in seconds.
PROMPT_SECONDS = 0.5


class Silence:
    """lease_seconds: of a worker whose id has none. monotonic: gives seconds."""

    def __init__(self, lease_seconds: float, monotonic: Callable[[], float]) -> None:
        self.lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._looked_at: float | None = None
        self._before: float | None = None  # the look before the one that is under way
        self._unchanged: dict[str, tuple[object, float]] = {}  # the last, and for how long the same

    def look(self) -> None:
        """Begin a look; one that fails is followed by no ``note``."""
        self._before, self._looked_at = self._looked_at, None

    def note(self, seen: Mapping[str, object]) -> None:
        """Note what the look has shown: ``seen_at`` of each worker."""
        self._looked_at = now = self._monotonic()
        passed = 0.0 if self._before is None else min(now - self._before, MOST_SECONDS)
        before, self._unchanged = self._unchanged, {}
        for worker_id, value in seen.items():
            last, seconds = before.get(worker_id, (None, 0.0))
            is_new = worker_id not in before or last != value
            most = MOST_OF_LEASE * self.lease_of(worker_id)
            self._unchanged[worker_id] = (value, 0.0 if is_new else seconds + min(passed, most))

    def is_over_lease(self, worker_id: str) -> bool:
        """Whether a worker was silent for longer than it may be."""
        _, seconds = self._unchanged.get(worker_id, (None, 0.0))
        return seconds > self.lease_of(worker_id)

    def is_near(self) -> bool:
        """Whether a worker is silent for so long that our own heartbeat is to be tested."""
        most = MOST_OF_LEASE
        return any(
            seconds >= most * self.lease_of(who) for who, (_, seconds) in self._unchanged.items()
        )

    def unless_prompt(self, heartbeat: Callable[[], object]) -> None:
        """Count anew if our own heartbeat fails or has to wait: others would be as silent."""
        begun = self._monotonic()
        try:
            heartbeat()
        except DBAPIError as error:
            log.info(
                "not counting silent workers, while this one cannot send heartbeats: %s", error
            )
        else:
            if self._monotonic() - begun < PROMPT_SECONDS:
                return
        self.forget()

    def lease_of(self, worker_id: str) -> float:
        """Return how long a worker may be silent, in seconds."""
        own = lease_of(worker_id)
        return self.lease_seconds if own is None else own

    def forget(self) -> None:
        """Count anew from the next look on."""
        self._looked_at = self._before = None
        self._unchanged.clear()
