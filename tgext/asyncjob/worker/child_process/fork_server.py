"""The fork server: the process that forks the children that run attempts.

A fork copies the locks that other threads hold, and nothing releases the copies. So the worker
forks only one process, the *fork server*, which has one thread and runs no code of the application.
It forks a child for each attempt, waits for its end, and kills it on request. A worker process of
the commands starts it before its first thread; a serving process with the first job that needs it.

    worker ==requests==> fork server --fork--> child      SPAWN with two descriptors, or a pid
    worker <==status, a pipe for each== fork server       the pid, then the exit status
    worker <==channel, a socket for each==> child

When the worker dies, the request socket closes, and the fork server and its children end.
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
from .child import MakeEnvironment, run_child

log = logging.getLogger(__name__)
_NUMBER = struct.Struct("<q")

#: The request for a new child; any other number is the pid of a child that is to be killed.
SPAWN = 0
#: Seconds between checks whether the worker is gone: a fork of it can hold the requests open.
LOOK_SECONDS = 1.0
#: Seconds to wait until no thread uses a database, before the fork; seconds between two checks.
QUIET_SECONDS, QUIET_LOOK_SECONDS = 10.0, 0.005
#: Seconds for a new fork server to report, and for a child to exit that has sent its outcome.
READY_SECONDS, EXIT_SECONDS = 2.0, 1.0


class Child:
    """The worker's side of one child. Used by one thread, except ``kill`` and ``send_nowait``."""

    def __init__(
        self, channel: Connection, status: int, pid: int, kill: Callable[[], object]
    ) -> None:
        self.pid = pid
        self._channel = channel
        self._status = status
        #: asks the fork server to kill the child
        self.kill = kill
        self._sending = threading.Lock()
        self._ended = False
        self._exit_code: int | None = None

    def send(self, message: bytes) -> None:
        """Send a message, unless the child has ended."""
        with self._sending, suppress(OSError):
            self._channel.send_bytes(message)

    def send_nowait(self, message: bytes) -> None:
        """Send a short message, unless the channel is in use; from any thread."""
        if self._sending.acquire(blocking=False):
            try:
                with suppress(OSError):
                    self._channel.send_bytes(message)
            finally:
                self._sending.release()

    def receive(self) -> bytes | None:
        """Wait for a message; None: the process has ended, and there are no more."""
        # The channel alone does not show its end: a process that it has forked may hold it open.
        ready = wait([self._channel, self._status])
        if self._channel in ready or self._channel.poll():
            with suppress(EOFError, OSError):
                return self._channel.recv_bytes()
        self.kill()  # if it has only closed its channel
        self._read_status(None)
        return None

    def how_it_ended(self) -> str:
        """Return how it ended, as a part of a sentence."""
        code = self._exit_code
        if code is None:
            return "ended, and its exit status is unknown"
        return f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """Wait for its end; kill it if that takes longer than EXIT_SECONDS."""
        with self._sending:
            self._channel.close()
        if not self._read_status(EXIT_SECONDS):
            self.kill()
            self._read_status(None)
        os.close(self._status)

    def _read_status(self, seconds: float | None) -> bool:
        """Wait for the exit status. seconds: None: without a limit. False if it has not come."""
        if not self._ended:
            if not wait([self._status], seconds):
                return False
            content = os.read(self._status, _NUMBER.size)
            self._ended = True
            self._exit_code = _NUMBER.unpack(content)[0] if content else None
        return True


class Databases(Protocol):
    """The databases of a queue, as ``QueueDatabase`` has them."""

    def may_fork(self) -> bool: ...
    def in_use(self) -> list[Callable[[], object]]: ...


class ForkServer:
    """The fork server of one queue; any thread may use it.

    databases: must not be in use at the fork. prepare: called in the fork server. make_environment:
    called in each child, see ``child.py``.
    """

    def __init__(
        self, databases: Databases, prepare: Callable[[], None], make_environment: MakeEnvironment
    ) -> None:
        self._databases = databases
        self._prepare = prepare
        self._make_environment = make_environment
        self._requests: socket.socket | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the fork server in a forked child: it is the parent's."""
        self._lock = threading.Lock()
        requests, self._requests = self._requests, None
        self._pid = 0
        if requests is not None:
            requests.close()  # a copy that would keep the fork server alive after the parent

    def open(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Start the fork server, if there is none; raises WorkerCrashed if not *is_wanted*."""
        with self._lock:
            self._open(is_wanted)

    def spawn(self, is_wanted: Callable[[], bool]) -> Child:
        """Start a child; raises WorkerCrashed if that fails, or as soon as not *is_wanted*."""
        try:
            for _ in range(2):  # the fork server may have been killed
                self.open(is_wanted)
                child, why = self._spawn()
                if child is not None:
                    return child
        except OSError as error:
            why = str(error)
        raise WorkerCrashed(f"no process could be started for the job: {why}")

    def _spawn(self) -> tuple[Child | None, str]:
        """Request a child; None and the reason if none was started."""
        # Made after the fork server, which must not have copies of them.
        channel, theirs = Pipe(duplex=True)
        status, status_write = os.pipe()
        asked = self._ask(SPAWN, theirs.fileno(), status_write)
        theirs.close()
        os.close(status_write)
        content = os.read(status, _NUMBER.size)
        pid = _NUMBER.unpack(content)[0] if content else 0
        if pid > 0:
            return Child(channel, status, pid, partial(self._ask, pid)), ""
        channel.close()
        os.close(status)
        if pid:
            return None, os.strerror(-pid)
        with self._lock:
            if self._requests is asked:  # not one that another thread has made since
                self._close()
        return None, "the fork server has ended"

    def close(self) -> None:
        """End the fork server and its children."""
        with self._lock:
            self._close()

    def _ask(self, number: int, *descriptors: int) -> socket.socket | None:
        """Send a request, if there is a fork server; return its socket."""
        with self._lock:
            if self._requests is not None:
                with suppress(OSError):  # it has ended; no pid comes then
                    socket.send_fds(self._requests, [_NUMBER.pack(number)], descriptors)
            return self._requests

    def _open(self, is_wanted: Callable[[], bool]) -> None:
        if self._requests is not None:
            return
        # Python 3.12 and later warn of a fork with threads; see the module for the answer to that.
        warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning, re.escape(__name__))
        until = time.monotonic() + QUIET_SECONDS
        while is_wanted() and time.monotonic() < until:
            if self._databases.may_fork() and self._fork(self._databases.in_use()):
                return
            time.sleep(QUIET_LOOK_SECONDS)
        if not is_wanted():
            raise WorkerCrashed("no process was started for the job, since it was interrupted")
        log.warning(
            "another thread has been using a database of jobs for %gs: child processes may find it "
            "locked; run jobs with executor=\"process\" in asyncjob-worker", QUIET_SECONDS,
        )  # fmt: skip
        self._fork([])

    def _fork(self, in_use: list[Callable[[], object]]) -> bool:
        """Fork the fork server. Returns False if it finds a database in use in its copy."""
        flush_stdio()  # else each process would write what is left in the buffers
        ours, theirs = socket.socketpair()
        # A signal for the fork server must not find this process's handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                ours.close()
                Context().run(self._run_server, theirs, mask, in_use)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._requests, self._pid = ours, pid
        ours.settimeout(READY_SECONDS)  # it may wait for a lock that it has copied
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
        with suppress(ChildProcessError):  # other code has waited for all children
            while not os.waitpid(self._pid, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    os.kill(self._pid, signal.SIGKILL)
                    os.waitpid(self._pid, 0)
                    break
                time.sleep(0.005)

    # -- in the fork server

    def _run_server(self, requests: socket.socket, mask: Any, in_use: list[Any]) -> NoReturn:
        try:
            if any(ask() for ask in in_use):
                os._exit(0)
            requests.send(b"!")
            leave_connections(requests.fileno())
            children = ChildProcesses(end_seconds=0)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            set_title("processes of jobs")
            self._prepare()
            _Loop(requests, children, self._make_environment).serve()
        except BaseException:
            log.exception("the fork server ends because of an error")
        finally:
            os._exit(0)


class _Loop:
    """The loop of the fork server: spawn, kill, wait, until the requests end."""

    def __init__(
        self, requests: socket.socket, children: ChildProcesses, make_environment: MakeEnvironment
    ) -> None:
        requests.setblocking(False)
        self._requests = requests
        self._children = children
        self._make_environment = make_environment
        self._status_pipes: dict[int, int] = {}  # by pid: the pipe for its status

    def serve(self) -> None:
        try:
            self._serve()
        finally:
            for pid in self._status_pipes:
                os.kill(pid, signal.SIGKILL)  # the worker is gone

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
            if number == SPAWN:
                self._spawn(*descriptors)
            elif number in self._status_pipes:
                os.kill(number, signal.SIGKILL)

    def _spawn(self, channel: int, status: int) -> None:
        try:
            pid = self._children.fork(partial(self._run_child, channel, status))
        except OSError as error:
            _write(status, -(error.errno or 1))
            os.close(status)
        else:
            self._status_pipes[pid] = status
            _write(status, pid)
        os.close(channel)

    def _run_child(self, channel: int, status: int) -> int:
        self._requests.close()
        for each in (status, *self._status_pipes.values()):
            os.close(each)
        return run_child(Connection(channel), self._make_environment)

    def _wait_for_ends(self) -> None:
        while self._status_pipes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            status_pipe = self._status_pipes.pop(pid)
            _write(status_pipe, os.waitstatus_to_exitcode(status))
            os.close(status_pipe)


def _write(status: int, number: int) -> None:
    with suppress(OSError):  # the worker is gone
        os.write(status, _NUMBER.pack(number))
