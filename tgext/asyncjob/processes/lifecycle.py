"""Callbacks after a fork, in the child, and at the interpreter's exit."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet, ref


class BelongsToProcess(Protocol):
    """An object with threads and locks, which a forked child cannot use."""

    def after_fork(self) -> None: ...
    def close(self) -> None: ...


_registered: WeakSet[BelongsToProcess] = WeakSet()


def register(owned: BelongsToProcess) -> Callable[[], None]:
    """Call ``after_fork`` in every child, and ``close`` at the interpreter's exit.

    Keeps no reference to *owned*. Returns a function that ends the registration.
    """
    found = ref(owned)

    def close() -> None:
        still_there = found()
        if still_there is not None:
            still_there.close()

    def end() -> None:
        _registered.discard(owned)
        atexit.unregister(close)

    _registered.add(owned)
    atexit.register(close)
    return end


def is_reloaded() -> bool:
    """Whether hupper runs this process, which kills it whenever a source file changes."""
    hupper = sys.modules.get("hupper")
    return hupper is not None and bool(hupper.is_active())


def _forked() -> None:
    for owned in list(_registered):
        owned.after_fork()


os.register_at_fork(after_in_child=_forked)
