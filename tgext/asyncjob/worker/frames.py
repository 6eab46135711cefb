"""Inspect the frames of other threads without destroying the objects in them.

A reference to a frame keeps its local variables; its thread may have left the frame before the
reference is released. The objects would then be destroyed in the thread that inspected: an object's
``__del__`` runs there, or the close of a cursor, which waits for the query of its connection. The
timeout monitor would wait for the very job that it is to end. Here a separate thread releases the
frames, and ends when there are none left.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

_Frames = list[dict[int, FrameType]]


class _FrameReleaser:
    """Releases frames that were inspected, in a thread of its own."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._lock = threading.RLock()
        self.looking = threading.RLock()  # held while the garbage collector is disabled
        self._seen: deque[_Frames] = deque()
        self._is_under_way = False

    def release(self, frames: _Frames) -> None:
        """Release the frames in a list to which there is no other reference."""
        with self._lock:
            self._seen.append(frames)
            if self._is_under_way:
                return
            self._is_under_way = True
        threading.Thread(target=self._run, name="frame-release-asyncjob", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._seen:
                    self._is_under_way = False
                    return
                frames = self._seen.popleft()
            frames.clear()


_releaser = _FrameReleaser()
os.register_at_fork(after_in_child=_releaser.begin)


def inspect_frame(thread: int, at: Callable[[FrameType | None], Result]) -> Result:
    """Return what *at* returns for the innermost frame of a thread; None: it has ended.

    at: must keep no reference to a frame.
    """
    frames = [_all_frames()]
    try:
        return at(frames[0].get(thread))
    finally:
        _releaser.release(frames)


def _all_frames() -> dict[int, FrameType]:
    """The innermost frame of each thread, with the garbage collector disabled.

    Up to 3.11.8 the interpreter holds a lock of its own while it makes that dict, and may collect
    garbage. That can run Python code, and let a thread have the interpreter that waits for the same
    lock, to start another thread say: then no thread ever runs again (CPython issue 106883).
    """
    with _releaser.looking:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if was_enabled:
                gc.enable()
