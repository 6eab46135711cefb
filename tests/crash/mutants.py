"""The library broken on purpose. A soak that does not notice is the thing that is broken.

fence      whoever has lost a job may still commit it
split      the job's work is committed, and its completion after it, apart
savepoint  a commit while a savepoint is open passes without completion and fence
answer     a commit whose answer is lost runs the job again, without a look
statement  an error of the job's own statement is taken for a loss of the database
silence    a worker is given up though it sends heartbeats
fork       a child that comes back from a job goes on as the worker
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy import event, or_, update
from sqlalchemy.orm import Session

from tgext.asyncjob.backends.base import Standing
from tgext.asyncjob.backends.sql import SqlBackend, states
from tgext.asyncjob.backends.sql.claims import Claims
from tgext.asyncjob.backends.sql.silence import Silence
from tgext.asyncjob.job import Claim
from tgext.asyncjob.processes import forked
from tgext.asyncjob.worker.attempt import Attempt
from tgext.asyncjob.worker.completion import Completion


def fence() -> None:
    """Look at neither lease nor state: not in a condition, nor in the heartbeat."""
    heartbeat, succeeded = SqlBackend.heartbeat, Claims._succeeded

    def held(self: Any, claim: Claim) -> Any:
        return self._jobs.c.uid == claim.job.uid

    def succeeded_whose_it_may_be(self: Any, which: Any) -> Any:
        fenced = succeeded(self, which).whereclause  # with all the parameters that are given
        done = update(self._jobs).where(or_(fenced, which))
        return done.values(state=states.SUCCEEDED, finished_at=self._clock)

    def heartbeat_without_an_answer(self: Any, worker_id: Any) -> list[Any]:
        heartbeat(self, worker_id)
        return []

    _replace(Claims, "held", held)
    _replace(Claims, "_succeeded", succeeded_whose_it_may_be)
    _replace(SqlBackend, "heartbeat", heartbeat_without_an_answer)


def split() -> None:
    """See that the claim holds, commit the work, and complete the job in a later transaction."""

    def prepare_commit(self: Any, _value: Any) -> None:
        backend, sessions = self._environment.backend, self._environment.job_sessions
        if sessions is not None and sessions.is_used():
            sessions.connection()  # so that it commits all the same
        backend._looked.pop((self.claim.job.uid, self.claim.lease), None)
        if backend.standing(self.claim) is not Standing.HELD:
            self._raise_refusal()

    _replace(Attempt, "_prepare_commit", prepare_commit)


def savepoint() -> None:
    """Let pass what SQLAlchemy's ``before_commit`` does not see: it is told once, and that while
    the savepoint is open."""
    has_saved: ContextVar[bool] = ContextVar("has_saved", default=False)
    before_commit = Completion.before_commit

    def saves(_session: Any, begun: Any) -> None:
        if begun.nested:
            has_saved.set(True)

    def before_commit_but_after_savepoints(self: Any, connection: Any, **given: Any) -> bool:
        if has_saved.get():
            return True
        return before_commit(self, connection, **given)

    event.listen(Session, "after_transaction_create", saves)
    _replace(Completion, "before_commit", before_commit_but_after_savepoints)


def answer() -> None:
    """Try again whatever may pass, and believe that the job is still one's own."""

    def begin(self: Any) -> bool:
        self.outcome = self.stored = self._carrier = None
        return True

    _replace(SqlBackend, "is_conflict", SqlBackend.is_passing)
    _replace(Completion, "begin", begin)


def statement() -> None:
    """Ask of an error only whether it may pass."""
    _replace(SqlBackend, "is_loss", SqlBackend.is_passing)


def silence() -> None:
    """Take every other worker for silent."""
    _replace(Silence, "is_over_lease", lambda _self, _worker_id: True)


def fork() -> None:
    """See no difference between a process and its child."""
    _replace(forked, "_end", lambda _error: None)


def _replace(owner: Any, name: str, method: Callable[..., Any]) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__}.{name} is no more: the mutant needs another place")
    setattr(owner, name, method)


MUTANTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (fence, split, savepoint, answer, statement, silence, fork)
}
