"""Where a process may strike itself, when the coordinator has armed it.

    coordinator --stdin--> "SIGKILL after commit" --> the next job that comes there is the last

A signal from outside hits some moment; one that the process sends to itself hits the very
statement at which exactly-once is decided. The end of stdin means that the coordinator is gone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import event

from .journal import STRUCK, note

#: In a job, before its first statement: no lock is held.
BEFORE_WORK = "before work"
#: In a job, after its last statement: it has no mark yet.
AFTER_WORK = "after work"
#: The mark is written, or the order's job, and not committed.
BEFORE_COMMIT = "before commit"
#: The commit has returned, and nobody has been told.
AFTER_COMMIT = "after commit"


class Points:
    """armed: the signal and the point at which this process is to send it to itself."""

    def __init__(self) -> None:
        self._armed: tuple[signal.Signals, str] | None = None
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        """Come to a point, and perhaps no further."""
        with self._lock:
            if self._armed is None or self._armed[1] != point:
                return
            which, self._armed = self._armed[0], None
        note(STRUCK, point)
        os.kill(os.getpid(), which)

    def watch(self, session: Any, applies: Callable[[], object]) -> None:
        """Come to the points of a session's commits, after the library's own listeners."""

        def before(_session: Any) -> None:
            if applies():
                self.reach(BEFORE_COMMIT)

        def after(_session: Any) -> None:
            if applies():
                self.reach(AFTER_COMMIT)

        event.listen(session, "before_commit", before)
        event.listen(session, "after_commit", after)

    def listen(self) -> None:
        """Begin to hear what the coordinator says."""
        threading.Thread(target=self._listen, name="coordinator", daemon=True).start()

    def _listen(self) -> None:
        # No file object: the interpreter cannot end while a thread reads one.
        while said := os.read(0, 4096):
            name, _, point = said.decode().splitlines()[-1].partition(" ")
            with self._lock:
                self._armed = (signal.Signals[name], point)
        os._exit(1)


#: Those of this process.
points = Points()
