"""Where a process may strike itself, when the coordinator has armed it.

    coordinator --stdin--> "SIGKILL after commit" --> the next job that comes there is the last

A signal from outside hits some moment; one that the process sends to itself hits the very
statement at which exactly-once is decided. The end of stdin means that the coordinator is gone.

Where a library that is broken must show, by an effect that is there twice, chance has no part in
it: only jobs come there of which a second run shows, and a process that stops there has no lock
in its hands, or others could not run that job before it goes on.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Pool, event

from tgext.asyncjob import asyncjob_running_uid

from .journal import PASSED, STRUCK, note

#: In a job of which a second run would show, before its first statement.
BEFORE_WORK = "before work"
#: In a job, after its last statement: it has no mark yet.
AFTER_WORK = "after work"
#: The mark is written, or the order's job, and not committed.
BEFORE_COMMIT = "before commit"
#: The commit of one that came to BEFORE_WORK has returned, and nobody has been told.
AFTER_COMMIT = "after commit"

#: Keeps a connection for good on SQLite, and never writes on it.
LISTENER = "asyncjob-wakeup"

#: Whether this attempt came to BEFORE_WORK.
_would_show: ContextVar[bool] = ContextVar("_would_show", default=False)

#: What ends with the attempt that was stopped.
_going_on: ContextVar[_GoingOn | None] = ContextVar("_going_on", default=None)


class _GoingOn:
    """An attempt has a context of its own, and this in it; when it ends, so does this."""


def _note_its_end(uid: str) -> None:
    going_on = _GoingOn()
    weakref.finalize(going_on, note, PASSED, uid)
    _going_on.set(going_on)


class Points:
    """armed: the signal and the point at which this process is to send it to itself."""

    def __init__(self) -> None:
        self._armed: tuple[signal.Signals, str] | None = None
        self._lock = threading.Lock()
        self._connections = Connections()

    def reach(self, point: str) -> None:
        """Come to a point, and perhaps no further."""
        if point == BEFORE_WORK:
            _would_show.set(True)
        with self._lock:
            if self._armed is None or self._armed[1] != point:
                return
            which, self._armed = self._armed[0], None
        uid = asyncjob_running_uid() or ""
        _note_its_end(uid)  # now: who has lost its lease is interrupted as it wakes
        note(STRUCK, uid)
        if which is signal.SIGSTOP and point == BEFORE_WORK:
            self._connections.stop_without()
        else:
            _strike(which)

    def watch(self, session: Any, applies: Callable[[], object]) -> None:
        """Come to the points of a session's commits, after the library's own listeners."""

        def before(_session: Any) -> None:
            if applies():
                self.reach(BEFORE_COMMIT)

        def after(_session: Any) -> None:
            if _would_show.get():
                self.reach(AFTER_COMMIT)

        event.listen(session, "before_commit", before)
        event.listen(session, "after_commit", after)

    def listen(self) -> None:
        """Begin to hear what the coordinator says; before there is any connection."""
        self._connections.watch()
        threading.Thread(target=self._listen, name="coordinator", daemon=True).start()

    def _listen(self) -> None:
        # No file object: the interpreter cannot end while a thread reads one.
        while said := os.read(0, 4096):
            name, _, point = said.decode().splitlines()[-1].partition(" ")
            with self._lock:
                self._armed = (signal.Signals[name], point)
        os._exit(1)


class Connections:
    """Those of this process that are in use. One that is not holds no lock."""

    def __init__(self) -> None:
        self._used: set[Any] = set()
        # Again by the same thread where one is given back by the garbage collector.
        self._lock = threading.RLock()
        self._stopped: threading.Event | None = None

    def watch(self) -> None:
        """Hear of every use from now on."""
        event.listen(Pool, "checkout", self._take)
        event.listen(Pool, "checkin", self._give_back)
        event.listen(Pool, "detach", self._give_back)

    def stop_without(self) -> None:
        """Send this process a SIGSTOP as soon as none is in use; the others go on until then.

        Returns after the SIGCONT. The caller has none.
        """
        self._stopped = stopped = threading.Event()
        with self._lock:
            self._stop_if_unused()
        stopped.wait()

    def _take(self, _connection: Any, record: Any, _proxy: Any) -> None:
        if threading.current_thread().name != LISTENER:
            with self._lock:
                self._used.add(record)

    def _give_back(self, _connection: Any, record: Any) -> None:
        with self._lock:
            self._used.discard(record)
            self._stop_if_unused()

    def _stop_if_unused(self) -> None:
        if self._stopped is not None and not self._used:
            stopped, self._stopped = self._stopped, None
            _strike(signal.SIGSTOP)
            stopped.set()


def _strike(which: signal.Signals) -> None:
    """Send this thread a signal. One to the process may be taken by another thread, and this
    one come some statements further before it hits."""
    signal.pthread_kill(threading.get_ident(), which)


#: Those of this process.
points = Points()
