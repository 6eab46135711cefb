"""The completion of a job: its final row, written in the commit that ends its work.

If the job has used the database of the jobs, its completion is the last statement before that
commit, on the same connection: both are committed, or neither. Any other commit of the attempt is
fenced: it succeeds only while the job is still this attempt's. If no connection can carry the
completion, the job is fenced before the commit, until its end, and the outcome is stored after it.

Raises what the backend raises, and RuntimeError for a commit that passed without the completion.
"""

from __future__ import annotations

import logging
from typing import Any

from ..backends.base import Standing
from ..job import Claim, Outcome
from .environment import AttemptEnvironment

log = logging.getLogger(__name__)


class Completion:
    """The completion of one attempt, through all tries of its transaction."""

    __slots__ = (
        "_carrier", "_claim", "_connections", "_environment", "_tries", "connections",
        "is_fenced", "outcome", "stored",
    )  # fmt: skip

    def __init__(self, claim: Claim, environment: AttemptEnvironment) -> None:
        self._claim = claim
        self._environment = environment
        self._tries = 0
        #: by session and engine: a connection in use, and whether it can change the job's row
        self._connections: dict[Any, tuple[Any, bool]] = {}
        self.connections: tuple[Any, ...] = ()  #: those connections alone, read at each statement
        self._carrier: Any = None  # the connection whose next commit ends the attempt
        self.outcome: Outcome | None = None  #: the outcome, if the commit that ends it succeeds
        self.stored: Outcome | None = None  #: the same, once that commit carries it
        self.is_fenced = False  #: until its end, before a commit that does not carry it

    def track_connection(self, connection: Any, session: Any) -> None:
        """Remember a connection that a session of the job's transaction has begun to use."""
        job_sessions = self._environment.job_sessions
        is_own = job_sessions is not None and job_sessions.owns(session, connection)
        self._connections[id(session), connection.engine] = connection, is_own
        self.connections = tuple(connection for connection, _ in self._connections.values())
        backend = self._environment.backend
        if is_own and self._tries > 1 and backend.has_one_writer:
            # The try before was refused the write lock at once, since it had read first. This one
            # waits for the lock now, before it reads.
            backend.fence(self._claim, connection)

    def begin(self) -> bool:
        """Begin a try. Returns False if the job is no longer this attempt's, which may be why the
        try before was rolled back."""
        backend = self._environment.backend
        self.outcome = self.stored = self._carrier = None
        if self.is_fenced:
            backend.unfence(self._claim)
            self.is_fenced = False
        self._tries += 1
        return self._tries == 1 or backend.standing(self._claim, fresh=True) is Standing.HELD

    def prepare(self, outcome: Outcome) -> bool:
        """Prepare the commit that ends the attempt. Returns False if it must not happen."""
        self.outcome = outcome
        sessions = self._environment.job_sessions
        if sessions is not None and (sessions.is_used() or self._environment.scope.enqueues):
            # The connection commits even if the job has only read, or enqueued.
            self._carrier = sessions.connection()
            return True
        self.is_fenced = self._environment.backend.fence(self._claim)
        return self.is_fenced

    def before_commit(self, connection: Any, *, by_statement: bool) -> bool:
        """Complete or fence the job before a commit on *connection*.

        by_statement: whether a statement of the job's own commits; that does not end the attempt.
        Returns False if the commit must not happen.
        """
        if self.outcome is not None and not by_statement and self._carries(connection):
            self.stored = self.outcome
            return self._environment.backend.finish(self._claim, self.outcome, connection)
        if self.outcome is None:
            self._environment.warn_of_parts(self._claim.job.uid, self._claim.job.call.name)
        return self._fence(connection)

    def _carries(self, connection: Any) -> bool:
        """Whether the commit on *connection* that ends the attempt can complete the job."""
        if self._carrier is None:  # first used by a hook of this commit
            return (connection, True) in self._connections.values()
        return connection is self._carrier

    def _fence(self, connection: Any) -> bool:
        """Fence the job until a commit on *connection* has ended; False if it is not held."""
        backend, carrier = self._environment.backend, self._carrier
        if (connection, True) in self._connections.values():
            return backend.fence(self._claim, connection)
        if carrier is not None and not backend.has_one_writer:
            return backend.fence(self._claim, carrier)  # it commits after this one
        return self.is_fenced or backend.standing(self._claim, fresh=True) is Standing.HELD

    def was_carried(self) -> bool:
        """Whether the commit that ended the attempt carried the completion.

        Raises RuntimeError if it should have, and did not.
        """
        if self.stored is None and self._carrier is not None:
            raise RuntimeError(
                "expected the commit of the job's session to complete the job with it, got one "
                "made by other means, or none; it is unknown how much of the job's work is in the "
                "database: leave the commit to the transaction package"
            )
        return self.stored is not None

    def has_come_about(self) -> bool:
        """Whether the commit that carried the completion has succeeded, although it raised.

        False if that is unknown: the outcome of the error is then stored under the fence, which
        refuses it if the commit has succeeded.
        """
        if self.stored is None:
            return False
        try:
            return self._environment.backend.committed(self._claim)
        except Exception as error:  # noqa: BLE001 - the backend may be unreachable
            uid = self._claim.job.uid
            log.warning("job=%s it is not known whether its commit succeeded: %s", uid, error)
            return False
