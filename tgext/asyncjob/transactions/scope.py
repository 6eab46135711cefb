"""The transaction that a piece of work runs in, and what depends on its commit.

A ``Scope`` knows the ``transaction`` package, and answers two questions: is this thread inside
a transaction that others will commit (``is_managed``), and how is one attempt run in a
transaction of its own (``run``). It is lazy: a job that touched nothing costs no transaction.
Of SQLAlchemy it knows only the ``Sessions`` that it may be given.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import transaction
from transaction.interfaces import TransientError

from ..current import attempt_var
from ..job import Job
from .extent import Extent
from .pending import PendingJobs

if TYPE_CHECKING:
    from .sessions import Sessions

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Times that one attempt is run in all when the database has undone it because of others and
#: asks for another try (a deadlock, a serialisation failure).
TRIES = 8

#: Seconds between two of them, doubled each time and drawn from half to one and a half, so that
#: two that were in each other's way do not meet again.
PAUSE_SECONDS = 0.01

#: What took part in a parent's transaction: kept, since to collect it would end it.
_left: list[Any] = []


class _TransactionState:
    """What a scope keeps of a transaction, in that transaction's data."""

    def __init__(self) -> None:
        self.pending: PendingJobs | None = None
        self.aborting = False
        self.was_begun = True  # False: it was begun for its first job, and may have no owner

    def abort(self) -> None:
        self.aborting = True


class Scope:
    """How work and transactions meet in one application; any thread may use it."""

    def __init__(self, is_conflict: Callable[[BaseException], bool] = lambda _error: False) -> None:
        self._is_conflict = is_conflict
        self._manager = transaction.manager
        self._extent = Extent()
        self._positions: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._sessions: Sessions | None = None
        self._unwatch: Callable[[], None] = lambda: None

    def bind(self, sessions: Sessions) -> None:
        """Remove this thread's session after each attempt, and mind its savepoints."""
        self.unbind()
        self._unwatch = sessions.watch(
            self._session_used, self._savepoint_begun, self._savepoint_rolled_back
        )
        self._sessions = sessions

    def unbind(self) -> None:
        """Leave the sessions to themselves: they outlive a queue that is closed."""
        unwatch, self._unwatch = self._unwatch, lambda: None
        unwatch()

    # -- a transaction that others end

    @property
    def is_managed(self) -> bool:
        """Whether this thread is in a transaction that others will commit or abort.

        True inside ``managed()``, and until that transaction ends, for the hooks that its
        commit calls; not for those that are called after it, nor by an abort. An open
        transaction alone says nothing: a query in a script begins one that is never committed.
        """
        said = self._extent.managed
        txn = self._extent.manager._txn  # see _open_transaction
        if txn is None or said is False:
            return bool(said)
        state = self._state_or_none(txn)
        if state is None:
            return bool(said) and _can_join(txn)
        return not state.aborting and _can_join(txn)

    @property
    def is_committing(self) -> bool:
        """Whether this thread is in the middle of its transaction's commit."""
        return getattr(self._extent.manager._txn, "status", None) == "Committing"

    @property
    def is_foreign(self) -> bool:
        """Whether this thread's transactions are another manager's than its sessions'."""
        return self._extent.is_foreign

    @contextmanager
    def managed(self, yes: bool = True, manager: Any = None) -> Iterator[None]:
        """Note, for the block, whether others end this thread's transactions.

        manager: theirs, where it is not ``transaction.manager``; None: that of the block around.
        """
        if yes and self._extent.managed is None:
            self._warn_of_left_jobs()
        with self._extent.block(yes, manager, self) as manager:
            try:
                yield
            finally:
                if yes and manager._txn is not None:  # one of which no synchronizer was notified
                    self._state_of(manager._txn)

    def _warn_of_left_jobs(self) -> None:
        """Log the jobs of a transaction that was begun for the first of them and not committed by
        the block before: requests may have a manager of their own, which never will."""
        txn = self._extent.manager._txn
        state = None if txn is None else self._state_or_none(txn)
        if state is not None and not state.was_begun and state.pending is not None:
            state.pending.warn_of_left()

    def pending(
        self,
        hand_over: Callable[[list[Job]], None],
        store: Callable[[list[Job]], bool] | None = None,
        announce: Callable[[list[Job]], None] = lambda _jobs: None,
    ) -> PendingJobs:
        """Return the jobs of this thread's transaction; where there are none, an empty list
        that has joined it; its commit then does what ``PendingJobs`` says."""
        manager = self._extent.manager
        txn = manager._txn
        if txn is None:
            txn = manager.begin()
            self._state_of(txn).was_begun = False
        state = self._state_of(txn)
        if state.pending is None or not state.pending.takes_part:
            state.pending = PendingJobs(hand_over, store, announce, manager)
            txn.join(state.pending)
        return state.pending

    @property
    def enqueues(self) -> bool:
        """Whether the commit of this thread's transaction enqueues jobs."""
        pending = self.pending_or_none()
        return pending is not None and bool(pending.jobs)

    def pending_or_none(self) -> PendingJobs | None:
        """Return the jobs of this thread's transaction, None where it has enqueued none."""
        txn = self._extent.manager._txn
        state = None if txn is None else self._state_or_none(txn)
        return None if state is None else state.pending

    def after_commit(self, act: Callable[[], object]) -> None:
        """Call *act* once this thread's transaction has been committed."""
        self._extent.manager.get().addAfterCommitHook(lambda committed: committed and act())

    # -- transaction.interfaces.ISynchronizer: hear of the transactions that begin in a block

    def newTransaction(self, txn: Any) -> None:
        self._state_of(txn)

    def beforeCompletion(self, txn: Any) -> None: ...
    def afterCompletion(self, txn: Any) -> None: ...

    def _state_of(self, txn: Any) -> _TransactionState:
        state = self._state_or_none(txn)
        if state is None:
            state = _TransactionState()
            txn.set_data(self, state)
            txn.addBeforeAbortHook(state.abort)
            if self._sessions is not None:
                # Behind the hooks of others: what listens to a flush may enqueue, and can take
                # part until the votes begin, which would flush too late for that.
                txn.addBeforeCommitHook(txn.addBeforeCommitHook, (self._sessions.flush,))
        return state

    def _state_or_none(self, txn: Any) -> _TransactionState | None:
        try:
            found: _TransactionState = txn.data(self)
        except KeyError:
            return None
        return found

    def only_reads(self) -> bool:
        """Whether nothing is lost when this thread's transaction is aborted: only sessions
        take part in it, and they hold no work."""
        if self._sessions is not None and self._sessions.holds_work():
            return False
        txn = self._open_transaction()
        resources = [] if txn is None else txn._resources
        return all(type(each).__module__.partition(".")[0] == "zope" for each in resources)

    def forget(self) -> None:
        """Abort whatever transaction this thread has open: a session sees what is there then."""
        if self._open_transaction() is not None:
            self._manager.abort()

    def end_reading(self) -> bool:
        """Forget this thread's transaction; False where something would be lost."""
        if not self.only_reads():
            return False
        self.forget()
        if self._manager.explicit and self._extent.managed:
            self._manager.begin()  # for the block that ends what it has begun
        return True

    def leave_to_parent(self) -> None:
        """Have nothing more to do with this thread's transaction, in a child that was forked in
        the middle of it: what takes part is neither committed nor aborted here."""
        self._extent.managed = None
        txn = self._open_transaction()
        if txn is not None:
            _left.extend(txn._resources)
            txn._resources.clear()

    # -- a transaction of one's own

    def run(self, work: Callable[[], Result], before_commit: Callable[[Result], None]) -> Result:
        """Run *work* in a transaction of its own, commit, and return what it returned.

        before_commit: called last before the commit with what *work* returned, where there is
        something to commit; what it raises aborts. Anything raised, whatever it is, aborts and
        is raised again, except that an error by which the database undid it and asks for another
        try makes *work* run again, TRIES times in all. The thread's session is removed in any case.
        """
        extent = self._extent
        manager = self._manager.manager  # this thread's
        tries_left = TRIES
        while True:
            tries_left -= 1
            if manager.explicit or manager._txn is not None:
                manager.begin()
            extent.managed = True
            try:
                result = work()
                if manager._txn is not None:
                    before_commit(result)
                    manager.commit()
                return result
            except BaseException as error:
                if not self._abort(error) or not tries_left:
                    raise
                attempt = attempt_var.get()
                uid = "" if attempt is None else attempt.uid
                log.info("job=%s trying again what the database has undone: %s", uid, error)
            finally:
                extent.managed = None
                if self._sessions is not None:
                    self._sessions.remove()
            pause_seconds = PAUSE_SECONDS * 2 ** (TRIES - 1 - tries_left)
            time.sleep(pause_seconds * random.uniform(0.5, 1.5))

    @contextmanager
    def block(self) -> Iterator[None]:
        """Commit what a block did, or abort; doom the managed transaction that it is part of."""
        is_part = self.is_managed
        if not is_part and not self.only_reads():
            raise RuntimeError(
                "session_scope() expected no transaction under way in this thread, and there is "
                "uncommitted work in it; call transaction.commit() or abort() before"
            )
        if not is_part:
            self.forget()
        try:
            with self.managed():
                yield
                if not is_part:
                    self._manager.commit()
        except BaseException as error:
            self._manager.doom() if is_part else self._abort(error)
            raise
        finally:
            if not is_part and self._sessions is not None:
                self._sessions.remove()

    def _abort(self, error: BaseException) -> bool:
        """Abort, whatever happens; True if who raised *error* asks for another try."""
        asks = isinstance(error, TransientError) or self._is_conflict(error)
        if self._open_transaction() is None:
            return asks
        try:
            # Data managers of sessions would also answer for databases that are not theirs.
            may_ask = self._sessions is None or self._sessions.has_raised(error)
            retryable = asks or (
                isinstance(error, Exception)
                and may_ask
                and bool(self._manager.get().isRetryableError(error))
            )
        except Exception:  # noqa: BLE001 - a data manager's guess must not hide the error
            retryable = False
        try:
            self._manager.abort()
        except Exception:
            log.exception("could not abort the transaction of a job")
        return retryable

    def _open_transaction(self) -> Any:
        """This thread's transaction, None if none is open.

        ``transaction`` has no public way to ask without beginning one; ``tests/test_scope.py``
        fails on the day that this attribute goes.
        """
        return self._manager.manager._txn

    # -- transactions of a session: those of ours that it will take part in

    def _session_used(self) -> None:
        if self.is_managed and not self.is_foreign:
            self._state_of(self._manager.get())

    # -- SAVEPOINTs of a session, which the transaction package never hears of

    def _savepoint_begun(self, savepoint: Any) -> None:
        pending = self.pending_or_none()
        self._positions[savepoint] = 0 if pending is None else pending.position()

    def _savepoint_rolled_back(self, savepoint: Any) -> None:
        position = self._positions.pop(savepoint, None)
        pending = self.pending_or_none()
        if position is not None and pending is not None:
            pending.drop_after(position)


def _can_join(txn: Any) -> bool:
    # transaction.interfaces names no constants for these.
    return txn.status in ("Active", "Doomed")
