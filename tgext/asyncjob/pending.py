"""The jobs that a transaction has enqueued, and what its end makes of them.

They are stored by its commit, where they are kept in its own database, and handed over after it;
forgotten by its abort, and by the rollback of a savepoint of either kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transaction

from .job import Job


class PendingJobs:
    """A data manager of the ``transaction`` package that holds the jobs of one transaction.

    hand_over: called with the jobs, in order, once everything else has been committed.
    store: called with them just before, in the transaction itself; None: there is no store in it.
    """

    def __init__(
        self,
        hand_over: Callable[[list[Job]], None],
        store: Callable[[list[Job]], None] | None = None,
    ) -> None:
        self.transaction_manager = transaction.manager
        self._hand_over = hand_over
        self._store = store
        self._stored = 0
        self._jobs: list[Job | None] = []  # None: it was dropped; a savepoint counts it still
        #: False once it was aborted: by the rollback of a savepoint older than itself, too
        self.takes_part = True

    @property
    def jobs(self) -> list[Job]:
        """The jobs, in the order of their enqueue."""
        return [job for job in self._jobs if job is not None]

    def add(self, job: Job) -> None:
        """Take one more."""
        if self._store is not None and self._stored == len(self._jobs):
            self.transaction_manager.get().addBeforeCommitHook(self._store_new)
        self._jobs.append(job)

    def _store_new(self) -> None:
        assert self._store is not None
        new = [job for job in self._jobs[self._stored :] if job is not None]
        self._stored = len(self._jobs)  # what later hooks enqueue comes in another round
        if new:
            self._store(new)

    def mark(self) -> int:
        """Return what ``drop_after`` needs to come back to this moment."""
        return len(self._jobs)

    def drop_after(self, mark: int) -> None:
        """Forget the jobs that came after *mark*."""
        del self._jobs[mark:]

    def drop(self, uid: str) -> bool:
        """Forget one job; False if it is not here, or stored already."""
        found = self.find(uid)
        if found is None or self._jobs.index(found) < self._stored:
            return False
        self._jobs[self._jobs.index(found)] = None
        return True

    def find(self, uid: str) -> Job | None:
        """Return one of the jobs."""
        return next((job for job in self.jobs if job.uid == uid), None)

    # -- transaction.interfaces.ISavepointDataManager

    def sortKey(self) -> str:
        # After zope.sqlalchemy's "~sqlalchemy:...": jobs begin when their data can be read.
        return "~~tgext.asyncjob"

    def savepoint(self) -> _Savepoint:
        return _Savepoint(self)

    def abort(self, _txn: Any) -> None:
        self._jobs.clear()
        self._stored = 0
        self.takes_part = False

    def tpc_begin(self, _txn: Any) -> None: ...
    def commit(self, _txn: Any) -> None: ...
    def tpc_vote(self, _txn: Any) -> None: ...

    def tpc_finish(self, _txn: Any) -> None:
        jobs = self.jobs
        self._jobs.clear()
        if jobs:
            self._hand_over(jobs)

    tpc_abort = abort


class _Savepoint:
    def __init__(self, pending: PendingJobs) -> None:
        self._pending = pending
        self._mark = pending.mark()

    def rollback(self) -> None:
        self._pending.drop_after(self._mark)
