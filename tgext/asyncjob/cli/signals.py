"""The signals that stop a worker process: the first drains it, the second stops it at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable

from ..processes.forking import signal_name

#: A second signal counts from so many seconds after the first: a service manager and a supervisor,
#: or a terminal, may both send the same one.
SECOND_SECONDS = 1.0


class StopSignals:
    """Handles the signals *handled* from now on. Made in the main thread.

    Plain attributes and no Event: a handler runs in the middle of whatever the main thread does,
    which may hold the event's lock.
    """

    def __init__(self, handled: Iterable[signal.Signals]) -> None:
        self.by: str | None = None  #: the name of the first signal
        self.is_urgent = False  #: whether it came twice
        self._first_at = 0.0
        self._before = {each: signal.signal(each, self._on_signal) for each in handled}

    def _on_signal(self, number: int, _frame: object) -> None:
        now = time.monotonic()
        if self.by is None:
            self.by, self._first_at = signal_name(number), now
        elif now - self._first_at >= SECOND_SECONDS:
            self.is_urgent = True

    def close(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
