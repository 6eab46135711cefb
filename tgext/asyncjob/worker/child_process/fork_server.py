"""Where the processes of attempts come from: one that forks them, and has done nothing else.

A fork copies the locks that other threads hold, and nothing releases the copies. So the worker
forks once, a *nursery*, which has one thread and runs nothing of the application; the nursery
forks a process for each attempt, waits for its end, and kills it on request. A worker process of
the commands makes it before its first thread, a serving process with the first job that needs it.

    worker ==requests==> nursery --fork--> process            BEAR with two descriptors, or a pid
    worker <==status, a pipe for each== nursery               its pid, then its exit status
    worker <==line, a socket for each==> process

When the worker dies, however it does, the requests end, and with them the nursery, and with the
nursery its processes (see ``forking.py``).
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn, Protocol

from ...errors import WorkerCrashed
from ...processes.forking import (
    HANDLED_SIGNALS,
    ChildProcesses,
    flush_stdio,
    leave_connections,
    set_title,
    signal_name,
)
from .child import Adopt, live

log = logging.getLogger(__name__)
_NUMBER = struct.Struct("<q")

#: The request for a process; any other number is the pid of one that is to be killed.
BEAR = 0
#: Seconds between looks for another parent: a fork of the worker can hold the requests open.
LOOK_SECONDS = 1.0
#: How long to wait for a good moment to fork, in seconds, and between two looks.
QUIET_SECONDS, QUIET_LOOK_SECONDS = 10.0, 0.005
#: How long a nursery may take to say that it was forked in the right moment.
RIGHT_SECONDS = 2.0
#: How long a process may go on that has said what it came to, in seconds.
EXIT_SECONDS = 1.0


class Child:
    """The worker's side of one process. Used by one thread, but for ``tell``."""

    def __init__(self, line: Connection, status: int, pid: int, kill: Callable[[], object]) -> None:
        self.pid = pid
        self._line = line
        self._status = status
        self.kill = kill  #: ends it at once; from any thread
        self._sending = threading.Lock()
        self._ended = False
        self._exit_code: int | None = None

    def send(self, message: bytes) -> None:
        """Send a message, as far as anybody is there to hear it."""
        with self._sending, suppress(OSError):
            self._line.send_bytes(message)

    def tell(self, message: bytes) -> None:
        """Send a short message, unless the line is just being used; from any thread."""
        if self._sending.acquire(blocking=False):
            try:
                with suppress(OSError):
                    self._line.send_bytes(message)
            finally:
                self._sending.release()

    def receive(self) -> bytes | None:
        """Wait for a message; None: there will be none any more, since the process has ended."""
        # The end of the line is no sign of that: what the process has forked may hold it open.
        ready = wait([self._line, self._status])
        if self._line in ready or self._line.poll():
            with suppress(EOFError, OSError):
                return self._line.recv_bytes()
        self.kill()  # where it has only closed its line
        self._read_status(None)
        return None

    def how(self) -> str:
        """Say how it ended."""
        code = self._exit_code
        if code is None:
            return "ended, and nobody saw how"
        return f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """Let it end, and see to it that it does."""
        with self._sending:
            self._line.close()
        if not self._read_status(EXIT_SECONDS):
            self.kill()
            self._read_status(None)
        os.close(self._status)

    def _read_status(self, seconds: float | None) -> bool:
        """Wait for the exit status; False if it has not come by then."""
        if not self._ended:
            if not wait([self._status], seconds):
                return False
            content = os.read(self._status, _NUMBER.size)
            self._ended = True
            self._exit_code = _NUMBER.unpack(content)[0] if content else None
        return True


class Databases(Protocol):
    """Those of a queue."""

    def may_fork(self) -> bool: ...
    def in_use(self) -> list[Callable[[], object]]: ...


class Nursery:
    """Of one queue; any thread may use it.

    databases: those that must not be copied in use. prepare: called once in the nursery's
    process, when it begins. adopt: see ``child.py``.
    """

    def __init__(self, databases: Databases, prepare: Callable[[], None], adopt: Adopt) -> None:
        self._databases = databases
        self._prepare = prepare
        self._adopt = adopt
        self._requests: socket.socket | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the nursery: it is the parent's."""
        self._lock = threading.Lock()
        requests, self._requests = self._requests, None
        self._pid = 0
        if requests is not None:
            requests.close()  # a copy, which would keep the nursery when the parent has gone

    def open(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Make the nursery, if there is none. is_wanted: whether it still is."""
        with self._lock:
            self._open(is_wanted)

    def bear(self, is_wanted: Callable[[], bool]) -> Child:
        """Start a process; raises WorkerCrashed where there can be none, or as soon as it is not
        wanted any more."""
        child: Child | None = None
        why = ""
        try:
            for _ in range(2):  # the nursery may have been killed
                self.open(is_wanted)
                child, why = self._bear()
                if child is not None:
                    return child
        except OSError as error:
            why = str(error)
        raise WorkerCrashed(f"no process could be started for it: {why}")

    def _bear(self) -> tuple[Child | None, str]:
        """Ask for a process; None and the reason if there is none."""
        # Made after the nursery, which must not have copies of them.
        line, theirs = Pipe(duplex=True)
        status, status_write = os.pipe()
        asked = self._ask(BEAR, theirs.fileno(), status_write)
        theirs.close()
        os.close(status_write)
        content = os.read(status, _NUMBER.size)
        pid = _NUMBER.unpack(content)[0] if content else 0
        if pid > 0:
            return Child(line, status, pid, partial(self._ask, pid)), ""
        line.close()
        os.close(status)
        if pid:
            return None, os.strerror(-pid)
        with self._lock:
            if self._requests is asked:  # not one that another thread has made since
                self._close()
        return None, "the process that starts them has ended"

    def close(self) -> None:
        """End the nursery, and whatever of it still runs."""
        with self._lock:
            self._close()

    def _ask(self, number: int, *descriptors: int) -> socket.socket | None:
        """Send a request, if there is a nursery; return its socket. The nursery kills too, since
        it knows whether the pid is still its child's."""
        with self._lock:
            if self._requests is not None:
                with suppress(OSError):  # it is no more, which is seen by what does not come
                    socket.send_fds(self._requests, [_NUMBER.pack(number)], descriptors)
            return self._requests

    def _open(self, is_wanted: Callable[[], bool]) -> None:
        if self._requests is not None:
            return
        # From 3.12 on Python says that it is a risk; the module says what is done about it.
        warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning, re.escape(__name__))
        until = time.monotonic() + QUIET_SECONDS
        while is_wanted() and time.monotonic() < until:
            if self._databases.may_fork() and self._fork(self._databases.in_use()):
                return
            time.sleep(QUIET_LOOK_SECONDS)
        if not is_wanted():
            raise WorkerCrashed("no process was started for it: it is to end")
        log.warning(
            "another thread has been using a database of jobs for %gs: processes of jobs may find "
            "it locked; run them by asyncjob-worker", QUIET_SECONDS,
        )  # fmt: skip
        self._fork([])

    def _fork(self, in_use: list[Callable[[], object]]) -> bool:
        """Fork the nursery; False if its moment was not right. The copy is asked: other threads go
        on until the fork itself, and what they were at then only the copy can tell."""
        flush_stdio()  # else what is left in the buffers would be written by each process, too
        ours, theirs = socket.socketpair()
        # A signal for the nursery must not find this process's handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                ours.close()
                Context().run(self._be, theirs, mask, in_use)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._requests, self._pid = ours, pid
        ours.settimeout(RIGHT_SECONDS)  # it may have copied a lock that nobody there lets go of
        with suppress(OSError):
            if ours.recv(1):
                ours.settimeout(None)
                return True
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._close()
        return False

    def _close(self) -> None:
        requests, self._requests = self._requests, None
        if requests is None:
            return
        requests.close()
        until = time.monotonic() + EXIT_SECONDS
        with suppress(ChildProcessError):  # somebody has waited for all children
            while not os.waitpid(self._pid, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    os.kill(self._pid, signal.SIGKILL)
                    os.waitpid(self._pid, 0)
                    break
                time.sleep(0.005)

    # -- in the nursery

    def _be(self, requests: socket.socket, mask: Any, in_use: list[Any]) -> NoReturn:
        try:
            if any(ask() for ask in in_use):
                os._exit(0)
            requests.send(b"!")
            leave_connections(requests.fileno())
            children = ChildProcesses(end_seconds=0)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            set_title("processes of jobs")
            self._prepare()
            _Ward(requests, children, self._adopt).serve()
        except BaseException:
            log.exception("the process that starts the processes of jobs ends")
        finally:
            os._exit(0)


class _Ward:
    """What the nursery does: bear, kill, wait, until the requests end."""

    def __init__(self, requests: socket.socket, children: ChildProcesses, adopt: Adopt) -> None:
        requests.setblocking(False)
        self._requests = requests
        self._children = children
        self._adopt = adopt
        self._status_pipes: dict[int, int] = {}  # by pid: where its status goes

    def serve(self) -> None:
        try:
            self._serve()
        finally:
            for pid in self._status_pipes:
                os.kill(pid, signal.SIGKILL)  # for nobody

    def _serve(self) -> None:
        parent = os.getppid()
        while os.getppid() == parent:
            self._children.wait(LOOK_SECONDS, self._requests.fileno())
            self._wait_for_ends()
            try:
                content, descriptors, *_ = socket.recv_fds(self._requests, _NUMBER.size, 2)
            except BlockingIOError:
                continue
            except ConnectionError:
                return
            if not content:
                return
            (number,) = _NUMBER.unpack(content)
            if number == BEAR:
                self._bear(*descriptors)
            elif number in self._status_pipes:
                os.kill(number, signal.SIGKILL)

    def _bear(self, line: int, status: int) -> None:
        try:
            pid = self._children.fork(partial(self._be_child, line, status))
        except OSError as error:
            _write(status, -(error.errno or 1))
            os.close(status)
        else:
            self._status_pipes[pid] = status
            _write(status, pid)
        os.close(line)

    def _be_child(self, line: int, status: int) -> int:
        self._requests.close()
        for each in (status, *self._status_pipes.values()):
            os.close(each)
        return live(Connection(line), self._adopt)

    def _wait_for_ends(self) -> None:
        while self._status_pipes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            told = self._status_pipes.pop(pid)
            _write(told, os.waitstatus_to_exitcode(status))
            os.close(told)


def _write(status: int, number: int) -> None:
    with suppress(OSError):  # nobody wants to know any more
        os.write(status, _NUMBER.pack(number))
