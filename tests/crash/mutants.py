"""The library broken on purpose. A soak that does not notice is the thing that is broken.

fence   whoever has lost a job may still commit it
split   the job's work is committed, and the mark that says so after it, apart
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import or_, update

from tgext.asyncjob.attempt import Attempt
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.backends.sql.claims import Claims
from tgext.asyncjob.backends.sql.tables import SUCCEEDED
from tgext.asyncjob.job import Claim


def fence() -> None:
    """Look at neither lease nor state: not in a condition, nor in the heartbeat."""
    beat, succeeded = SqlBackend.beat, Claims._succeeded

    def held(self: Any, claim: Claim) -> Any:
        return self._jobs.c.uid == claim.job.uid

    def succeeded_whose_it_may_be(self: Any, which: Any) -> Any:
        fenced = succeeded(self, which).whereclause  # with all the parameters that are given
        done = update(self._jobs).where(or_(fenced, which))
        return done.values(state=SUCCEEDED, finished_at=self._clock)

    def beat_and_hear_nothing(self: Any, worker_id: Any) -> list[Any]:
        beat(self, worker_id)
        return []

    _replace(Claims, "held", held)
    _replace(Claims, "_succeeded", succeeded_whose_it_may_be)
    _replace(SqlBackend, "beat", beat_and_hear_nothing)


def split() -> None:
    """See that the claim holds, commit the work, and leave the mark to a later transaction."""

    def before_commit(self: Any, _value: Any) -> None:
        backend, sessions = self._surroundings.backend, self._surroundings.marked
        if sessions is not None and sessions.is_used():
            sessions.connection()  # so that it commits all the same
        backend._looked.pop((self.claim.job.uid, self.claim.lease), None)
        if not backend.holds(self.claim):
            self._refused()

    _replace(Attempt, "_before_commit", before_commit)


def _replace(owner: type, name: str, method: Callable[..., Any]) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__}.{name} is no more: the mutant needs another place")
    setattr(owner, name, method)


MUTANTS = {"fence": fence, "split": split}
