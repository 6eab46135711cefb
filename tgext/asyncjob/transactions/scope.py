"""The transactions of one application, and what depends on their commits.

A ``Scope`` uses the ``transaction`` package. It knows whether this thread is inside a transaction
that other code will commit (``is_managed``), and runs an attempt in a transaction of its own
(``run``). It is lazy: a job that uses no data manager begins no transaction. Of SQLAlchemy it knows
only the ``Sessions`` that it may be given.
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

#: How often one attempt is run in all if the database rolls it back because of others (a deadlock,
#: a serialization failure).
TRIES = 8

#: Seconds between two tries, doubled each time and multiplied by a random number from 0.5 to 1.5,
#: so that two attempts that were in conflict do not meet again.
PAUSE_SECONDS = 0.01

#: Data managers of a parent's transaction: kept, since their collection would end it.
_left: list[Any] = []


class _TransactionState:
    """What a scope stores in the data of a transaction."""

    def __init__(self) -> None:
        self.pending: PendingJobs | None = None
        self.cancelled: set[str] = set()  # the uids of jobs that its commit cancels
        self.aborting = False
        self.was_begun = True  # False: begun here for its first job; perhaps nothing ends it

    def abort(self) -> None:
        self.aborting = True


class Scope:
    """See the module; any thread may use it.

    is_conflict: whether an error says that a transaction may succeed if it is tried again.
    """

    def __init__(self, is_conflict: Callable[[BaseException], bool] = lambda _error: False) -> None:
        self._is_conflict = is_conflict
        self._manager = transaction.manager
        self.extent = Extent()  #: of each thread
        self._positions: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._sessions: Sessions | None = None
        self._unwatch: Callable[[], None] = lambda: None

    def bind(self, sessions: Sessions) -> None:
        """Use the application's sessions: remove a thread's session after each attempt, and track
        its savepoints."""
        self.unbind()
        self._unwatch = sessions.watch(
            self._session_used, self._savepoint_begun, self._savepoint_rolled_back
        )
        self._sessions = sessions

    def unbind(self) -> None:
        """Stop listening to the sessions, which the application may use after the queue."""
        unwatch, self._unwatch = self._unwatch, lambda: None
        unwatch()

    # -- a transaction that other code ends

    @property
    def is_managed(self) -> bool:
        """Whether this thread is in a transaction that other code will commit or abort.

        True inside ``managed()``, and in the hooks that the commit of that transaction calls
        before its end; False in those that are called after it, or by an abort. An open transaction
        alone does not count: a query in a script begins one that is never committed.
        """
        said = self.extent.managed
        txn = self.extent.manager._txn  # see _open_transaction
        if txn is None or said is False:
            return bool(said)
        state = self._state_or_none(txn)
        is_managed = bool(said) if state is None else not state.aborting
        return is_managed and _can_join(txn)

    @property
    def is_committing(self) -> bool:
        """Whether a commit of this thread's transaction is in progress."""
        return getattr(self.extent.manager._txn, "status", None) == "Committing"

    @property
    def is_foreign(self) -> bool:
        """Whether another manager than that of the sessions ends this thread's transactions."""
        return self.extent.is_foreign

    @contextmanager
    def managed(self, yes: bool = True, manager: Any = None) -> Iterator[None]:
        """Declare, for the block, whether other code ends this thread's transactions.

        manager: the manager that it uses; None: ``transaction.manager``, or that of the enclosing
        block.
        """
        if yes and self.extent.managed is None:
            self._warn_of_left_jobs()
        with self.extent.block(yes, manager, self) as manager:
            try:
                yield
            finally:
                if yes and manager._txn is not None:  # also one that began without a notification
                    self._state_of(manager._txn)

    def _warn_of_left_jobs(self) -> None:
        """Log the jobs of a transaction that was begun for the first of them, and that was not
        committed after the block before: requests may use another manager, which never does."""
        txn = self.extent.manager._txn
        state = None if txn is None else self._state_or_none(txn)
        if state is not None and not state.was_begun and state.pending is not None:
            state.pending.warn_of_left()

    def pending(
        self,
        hand_over: Callable[[list[Job]], None],
        store: Callable[[list[Job]], bool] | None = None,
        announce: Callable[[list[Job]], None] = lambda _jobs: None,
    ) -> PendingJobs:
        """Return the pending jobs of this thread's transaction, which join it if they are new; see
        ``PendingJobs``."""
        manager = self.extent.manager
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
        """Return the pending jobs of this thread's transaction; None if it has enqueued none."""
        txn = self.extent.manager._txn
        state = None if txn is None else self._state_or_none(txn)
        return None if state is None else state.pending

    @property
    def cancelled(self) -> set[str]:
        """The uids of the jobs that this thread's managed transaction cancels; to be added to."""
        txn = self.extent.manager._txn if self.is_managed else None
        return set() if txn is None else self._state_of(txn).cancelled

    def after_commit(self, act: Callable[[], object]) -> None:
        """Call *act* once this thread's transaction has been committed."""
        self.extent.manager.get().addAfterCommitHook(lambda committed: committed and act())

    # -- transaction.interfaces.ISynchronizer: notified of transactions that begin in a block

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
                # After the hooks of others: a listener to a flush may enqueue, and that is only
                # possible before the votes, which would flush too late.
                txn.addBeforeCommitHook(txn.addBeforeCommitHook, (self._sessions.flush,))
        return state

    def _state_or_none(self, txn: Any) -> _TransactionState | None:
        try:
            found: _TransactionState = txn.data(self)
        except KeyError:
            return None
        return found

    def only_reads(self) -> bool:
        """Whether an abort of this thread's transaction would lose nothing: only sessions take
        part in it, and they have no uncommitted work."""
        if self._sessions is not None and self._sessions.holds_work():
            return False
        txn = self._open_transaction()
        resources = [] if txn is None else txn._resources
        return all(type(each).__module__.partition(".")[0] == "zope" for each in resources)

    def forget(self) -> None:
        """Abort this thread's open transaction, so that its session reads a new snapshot."""
        if self._open_transaction() is not None:
            self._manager.abort()

    def end_reading(self) -> bool:
        """Abort this thread's transaction; False, without an abort, if work would be lost."""
        if not self.only_reads():
            return False
        self.forget()
        if self._manager.explicit and self.extent.managed:
            self._manager.begin()  # for the block, which will end the transaction that it began
        return True

    def leave_to_parent(self) -> None:
        """Leave this thread's transaction to the parent, in a child that was forked in the middle
        of it: its data managers are neither committed nor aborted here."""
        self.extent.managed = None
        txn = self._open_transaction()
        if txn is not None:
            _left.extend(txn._resources)
            txn._resources.clear()

    # -- a transaction of its own

    def run(self, work: Callable[[], Result], before_commit: Callable[[Result], None]) -> Result:
        """Run *work* in a transaction of its own, commit, and return what it returned.

        before_commit: called right before the commit with what *work* returned, if there is a
        transaction to commit. An exception of either aborts the transaction and is raised again.
        But if the error says that another try may succeed, *work* runs again, TRIES times in all.
        The session of this thread is removed in any case.
        """
        extent = self.extent
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
        """Commit the work of a block, or abort it if the block raises. Inside a managed transaction
        that one is doomed instead."""
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
        """Abort; never raises. Returns whether another try may succeed after *error*."""
        asks = isinstance(error, TransientError) or self._is_conflict(error)
        if self._open_transaction() is None:
            return asks
        try:
            # Data managers of sessions would also judge errors of other databases.
            may_ask = self._sessions is None or self._sessions.has_raised(error)
            retryable = asks or (
                isinstance(error, Exception)
                and may_ask
                and bool(self._manager.get().isRetryableError(error))
            )
        except Exception:  # noqa: BLE001 - an error of a data manager must not hide *error*
            retryable = False
        try:
            self._manager.abort()
        except Exception:
            log.exception("could not abort the transaction of a job")
        return retryable

    def _open_transaction(self) -> Any:
        """This thread's transaction; None if none is open.

        ``transaction`` has no public way to find out without beginning one; ``tests/test_scope.py``
        fails if a release removes this attribute.
        """
        return self._manager.manager._txn

    # -- transactions in which a session will take part

    def _session_used(self) -> None:
        if self.is_managed and not self.is_foreign:
            self._state_of(self._manager.get())

    # -- SAVEPOINTs of a session, of which the transaction package is not notified

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
