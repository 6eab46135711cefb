"""Who ends the transactions of a thread, as the blocks say that it has entered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import transaction


class Extent(threading.local):
    """What ``in_transaction()`` has set for a thread."""

    #: whether its transactions are ended by the block's owner; None: nothing is said
    managed: bool | None = None
    _manager: Any = None  # that of a block, if it is not transaction's, until it has ended it
    _listens: Any = None  # the manager that notifies of what begins

    @property
    def manager(self) -> Any:
        """What ends this thread's transactions: a ``TransactionManager``."""
        if self._manager is None:
            return _default_manager()
        if self.managed is None and self._manager._txn is None:  # and its block is left
            self._manager = None
            return _default_manager()
        return self._manager

    @property
    def is_foreign(self) -> bool:
        """Whether that is another manager than the sessions'."""
        return self.manager is not _default_manager()

    @contextmanager
    def block(self, managed: bool, manager: Any, synchronizer: Any) -> Iterator[Any]:
        """Set it for a block; gives the manager. manager: None: that of the block around.
        synchronizer: is notified of the transactions that begin in the block."""
        before = self.managed, self._manager, self._listens
        if managed and before[0] is None:
            self._manager = None
        self.managed = managed
        if manager is not None:
            self._manager = getattr(manager, "manager", manager)  # this thread's, of one for all
        manager = self.manager
        # Once for all blocks that stand in one another: the manager keeps a set.
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
    """Return the manager of this thread that the package ``transaction`` keeps."""
    try:
        return transaction.manager.manager
    except AttributeError:
        # A finalizer in the middle of this thread's first look, which makes it. No transaction
        # has begun, so any that has none does.
        return transaction.TransactionManager()
