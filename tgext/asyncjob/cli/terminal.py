"""The keys of a terminal, one by one, and the terminal as it was before.

While ``Keys`` is entered the terminal sends each key at once and does not show it. Ctrl-C and
SIGTERM raise KeyboardInterrupt then, so that whatever ends the block restores the terminal. What is
raised in a finalizer is lost, so that they are remembered, too.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from typing import Any


class Keys:
    """A context manager; without a terminal as standard input there are no keys."""

    def __enter__(self) -> Keys:
        self._fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._was_told = False
        self._before_us: dict[int, Any] = {
            number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)
        }
        if self._fd is not None:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._fd is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        for number, handler in self._before_us.items():
            signal.signal(number, handler)

    def _end(self, _number: int, _frame: object) -> None:
        self._was_told = True
        raise KeyboardInterrupt

    def has(self, key: str, seconds: float) -> bool:
        """Wait for *key*, at most so long; True also if the terminal is gone, or after a signal."""
        if self._was_told:
            return True
        until = time.monotonic() + seconds
        watched = [] if self._fd is None else [self._fd]
        while (left := until - time.monotonic()) > 0:
            if not select.select(watched, [], [], left)[0]:
                break
            pressed = os.read(watched[0], 64)
            if not pressed or key.encode("ascii") in pressed:
                return True
        return False
