"""What a queue must hear of its process: that it has forked, and that it exits."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet, ref


class BelongsToProcess(Protocol):
    """Something with threads and locks."""

    def after_fork(self) -> None: ...
    def close(self) -> None: ...


_watched: WeakSet[BelongsToProcess] = WeakSet()


def watch(owned: BelongsToProcess) -> Callable[[], None]:
    """Call ``after_fork`` in every child, and ``close`` at the interpreter's exit.

    Does not keep *owned* alive till then. Returns what ends the watch.
    """
    found = ref(owned)

    def close() -> None:
        still_there = found()
        if still_there is not None:
            still_there.close()

    def end() -> None:
        _watched.discard(owned)
        atexit.unregister(close)

    _watched.add(owned)
    atexit.register(close)
    return end


def is_reloaded() -> bool:
    """Whether a reloader (hupper) runs this process, and kills it whenever a file changes."""
    hupper = sys.modules.get("hupper")
    return hupper is not None and bool(hupper.is_active())


def _forked() -> None:
    for owned in list(_watched):
        owned.after_fork()


os.register_at_fork(after_in_child=_forked)
