"""Measures how long a worker has sent no heartbeat, by the monotonic clock of this process.

Each heartbeat changes ``seen_at``. The time during which it has not changed is added up from look
to look. Neither the clock of the database nor that of the machine is used, so that a step of a
clock makes no worker silent. A look that fails does not count, and a long pause between two looks
counts little: while the database could not be reached, or this process was stopped, the same may
have held for other workers. Also, while the database accepts no writes, or delays them, all workers
are silent. So a long silence is added up only while heartbeats of this process succeed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from sqlalchemy.exc import DBAPIError

from ..worker_id import lease_of

log = logging.getLogger(__name__)

#: The most that is added from one look to the next, in seconds: two rounds of rescue.
MOST_SECONDS = 3.0

#: The same in parts of the lease: no worker is silent for too long because of one pause.
MOST_OF_LEASE = 0.5

#: The longest heartbeat that counts as prompt, without a wait for locks of others, in seconds.
PROMPT_SECONDS = 0.5


class Silence:
    """lease_seconds: that of a worker whose id has none. monotonic: returns seconds."""

    def __init__(self, lease_seconds: float, monotonic: Callable[[], float]) -> None:
        self.lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._looked_at: float | None = None
        self._before: float | None = None  # the look before the one in progress
        self._unchanged: dict[
            str, tuple[object, float]
        ] = {}  # the last value, and how long unchanged

    def look(self) -> None:
        """Begin a look; one that fails is followed by no ``note``."""
        self._before, self._looked_at = self._looked_at, None

    def note(self, seen: Mapping[str, object]) -> None:
        """Note the result of the look: ``seen_at`` of each worker."""
        self._looked_at = now = self._monotonic()
        passed = 0.0 if self._before is None else min(now - self._before, MOST_SECONDS)
        before, self._unchanged = self._unchanged, {}
        for worker_id, value in seen.items():
            last, seconds = before.get(worker_id, (None, 0.0))
            is_new = worker_id not in before or last != value
            most = MOST_OF_LEASE * self.lease_of(worker_id)
            self._unchanged[worker_id] = (value, 0.0 if is_new else seconds + min(passed, most))

    def is_over_lease(self, worker_id: str) -> bool:
        """Whether a worker was silent for longer than its lease."""
        _, seconds = self._unchanged.get(worker_id, (None, 0.0))
        return seconds > self.lease_of(worker_id)

    def is_near(self) -> bool:
        """Whether a worker is silent for so long that a heartbeat of our own has to be tested."""
        most = MOST_OF_LEASE
        return any(
            seconds >= most * self.lease_of(who) for who, (_, seconds) in self._unchanged.items()
        )

    def unless_prompt(self, heartbeat: Callable[[], object]) -> None:
        """Start again if a heartbeat of our own fails or has to wait: others' would as well."""
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
        """Return the lease of a worker, in seconds."""
        own = lease_of(worker_id)
        return self.lease_seconds if own is None else own

    def forget(self) -> None:
        """Start again with the next look."""
        self._looked_at = self._before = None
        self._unchanged.clear()
