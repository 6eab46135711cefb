"""The jobs that a transaction has enqueued, and what happens to them at its end.

If a session on the jobs' database takes part in the transaction, they are stored in that session's
transaction, just before the votes, and its commit creates them. If that session takes no part, no
work in their database has to be committed with them: to store them is the last vote of the
transaction. With another backend they are handed over after the commit. An abort forgets them, and
the rollback of a savepoint forgets those that were added after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any
from weakref import finalize

import transaction

from ..job import Job

log = logging.getLogger(__name__)


class PendingJobs:
    """A data manager of the ``transaction`` package that holds the jobs of one transaction.

    hand_over: called with the jobs, in order, after the commit; as the last vote if there is a
    *store*. store: called with them before the votes; writes them in the transaction, or returns
    False if it cannot. announce: called after the commit with the jobs that *store* has written.
    manager: that of the transaction.
    """

    def __init__(
        self,
        hand_over: Callable[[list[Job]], None],
        store: Callable[[list[Job]], bool] | None = None,
        announce: Callable[[list[Job]], None] = lambda _jobs: None,
        manager: Any = transaction.manager,
    ) -> None:
        self.transaction_manager = manager
        self._hand_over = hand_over
        self._store = store
        self._announce = announce
        self._stored = False
        self._jobs: list[Job | None] = []  # None: dropped, but counted by savepoints
        self._places: dict[str, int] = {}  # by uid, of as many as a look has come to
        self._found = 0
        #: False after an abort, or the rollback of a savepoint from before this object
        self.takes_part = True
        # A transaction that is never ended is collected with its thread.
        finalize(self, _warn_of_left, self._jobs)

    @property
    def jobs(self) -> list[Job]:
        """The jobs, in the order of their enqueue."""
        return [job for job in self._jobs if job is not None]

    def add(self, jobs: Sequence[Job], join: Callable[[], object] | None = None) -> None:
        """Add jobs. join: called just before the commit; makes the session that stores them
        join."""
        if join is not None and not self._jobs:
            self.transaction_manager.get().addBeforeCommitHook(join)
        self._jobs.extend(jobs)

    def position(self) -> int:
        """Return the position of the next job; ``drop_after`` drops the jobs added since."""
        return len(self._jobs)

    def drop_after(self, position: int) -> None:
        """Forget the jobs that were added after *position* was returned."""
        del self._jobs[position:]
        self._places.clear()
        self._found = 0

    def drop(self, uid: str) -> bool:
        """Forget one job; False if there is no such job, or it is stored already."""
        found = self.find(uid)
        if found is None or self._stored:
            return False
        self._jobs[self._places.pop(found.uid)] = None
        return True

    def find(self, uid: str) -> Job | None:
        """Return the job with that uid; None if there is none."""
        for place in range(self._found, len(self._jobs)):
            job = self._jobs[place]
            if job is not None:
                self._places[job.uid] = place
        self._found = len(self._jobs)
        return None if uid not in self._places else self._jobs[self._places[uid]]

    def warn_of_left(self) -> None:
        """Log that the jobs wait for the end of a transaction, which may never be ended."""
        _warn_of_left(self._jobs)

    # -- transaction.interfaces.ISavepointDataManager

    def sortKey(self) -> str:
        # After zope.sqlalchemy's "~sqlalchemy:...": jobs begin when their data can be read.
        return "~~tgext.asyncjob"

    def savepoint(self) -> _Savepoint:
        return _Savepoint(self)

    def abort(self, _txn: Any) -> None:
        self.drop_after(0)
        self.takes_part = False

    def tpc_begin(self, _txn: Any) -> None:
        # Called last, so that the sessions have flushed; nothing can join from here on.
        jobs = self.jobs
        self._stored = bool(jobs) and self._store is not None and self._store(jobs)

    def commit(self, _txn: Any) -> None: ...

    def tpc_vote(self, _txn: Any) -> None:
        if self._store is not None and not self._stored:
            self._end(self._hand_over)

    def tpc_finish(self, _txn: Any) -> None:
        self._end(self._announce if self._stored else self._hand_over)

    def _end(self, take: Callable[[list[Job]], object]) -> None:
        jobs = self.jobs
        self.drop_after(0)
        if jobs:
            take(jobs)

    tpc_abort = abort


def _warn_of_left(jobs: list[Job | None]) -> None:
    left = sum(job is not None for job in jobs)
    if left:
        log.warning(
            "jobs in a transaction that was neither committed nor aborted: %d; commit it after "
            "`with queue.in_transaction():`, and where requests have a transaction manager of "
            "their own, name it: `in_transaction(manager=request.tm)`", left,
        )  # fmt: skip


class _Savepoint:
    def __init__(self, pending: PendingJobs) -> None:
        self._pending = pending
        self._position = pending.position()

    def rollback(self) -> None:
        self._pending.drop_after(self._position)
