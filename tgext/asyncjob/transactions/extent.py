"""Which code and which manager end the transactions of a thread, by the blocks it is in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import transaction


class Extent(threading.local):
    """What ``in_transaction()`` has set for a thread."""

    #: whether the caller of the block ends its transactions; None: it is in no block
    managed: bool | None = None
    #: another manager than transaction.manager, until it has ended the block's transaction
    _manager: Any = None
    _listens: Any = None  # the manager that notifies of new transactions

    @property
    def manager(self) -> Any:
        """The ``TransactionManager`` that ends this thread's transactions."""
        if self._manager is None:
            return _default_manager()
        if self.managed is None and self._manager._txn is None:  # after its block
            self._manager = None
            return _default_manager()
        return self._manager

    @property
    def is_idle(self) -> bool:
        """Whether this thread is in no transaction, and in no block whose caller ends one."""
        return not self.managed and self.manager._txn is None

    @property
    def is_foreign(self) -> bool:
        """Whether that is another manager than that of the sessions."""
        return self.manager is not _default_manager()

    @contextmanager
    def block(self, managed: bool, manager: Any, synchronizer: Any) -> Iterator[Any]:
        """Set this for a block; yields the manager. manager: None: that of the enclosing block.
        synchronizer: is notified of the transactions that begin in the block."""
        before = self.managed, self._manager, self._listens
        if managed and before[0] is None:
            self._manager = None
        self.managed = managed
        if manager is not None:
            self._manager = getattr(manager, "manager", manager)  # that of this thread
        manager = self.manager
        # Only once for nested blocks: the manager keeps a set of synchronizers.
        listens = managed and self._listens is not manager
        if listens:
            self._listens = manager
            manager.registerSynch(synchronizer)
        try:
            yield manager
        finally:
            if listens:
                self._listens = before[2]
                with suppress(KeyError):  # the manager's synchronizers may be cleared
                    manager.unregisterSynch(synchronizer)
            self.managed = before[0]
            if self.managed is not None:
                self._manager = before[1]


def _default_manager() -> Any:
    """Return the manager that the package ``transaction`` keeps for this thread."""
    try:
        return transaction.manager.manager
    except AttributeError:
        # A finalizer has interrupted this thread's first access, which makes the manager. No
        # transaction has begun, so a new manager is as good.
        return transaction.TransactionManager()
