"""Look at the frames of other threads without becoming the one that lets go of what is in them.

Whoever has asked for a frame keeps it, and with it its local variables, until he lets go; the
thread that it is of may have gone on by then. So their end would come in the thread that looked:
an object's ``__del__``, or the close of a cursor, which waits for the query of its connection. The
thread that enforces timeouts would wait for the very job that it is to end. Here a thread of its
own lets go, and ends when there is nothing more.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

_Frames = list[dict[int, FrameType]]


class _LettingGo:
    """Of the frames that were looked at."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._lock = threading.RLock()
        self._seen: deque[_Frames] = deque()
        self._is_under_way = False

    def of(self, frames: _Frames) -> None:
        """Let go of what is in a list, which nobody else has any more."""
        with self._lock:
            self._seen.append(frames)
            if self._is_under_way:
                return
            self._is_under_way = True
        threading.Thread(target=self._run, name="letting-go-asyncjob", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._seen:
                    self._is_under_way = False
                    return
                frames = self._seen.popleft()
            frames.clear()


_letting_go = _LettingGo()
os.register_at_fork(after_in_child=_letting_go.begin)


def look(thread: int, at: Callable[[FrameType | None], Result]) -> Result:
    """Return what *at* makes of the innermost frame of a thread, None if that has ended.

    at: keeps no frame.
    """
    frames = [sys._current_frames()]
    try:
        return at(frames[0].get(thread))
    finally:
        _letting_go.of(frames)
