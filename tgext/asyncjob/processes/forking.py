"""Fork child processes, receive signals, and end the children when their parent ends.

    parent <--signals, in their order, through a pipe-- the system
    parent --fork--> child, which has none of the parent's handlers, pipes and exit functions
    parent ==lifeline, a pipe==> child: it ends when the parent does, even by SIGKILL

Everything that a fork requires is here; callers decide when to fork.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

try:
    from setproctitle import setproctitle
except ImportError:  # without the extras `worker` and `looppool`: the name of its command stays

    def setproctitle(title: str) -> None:
        """Do nothing."""


log = logging.getLogger(__name__)

#: Signals that a parent handles. Windows, which cannot fork, lacks some; the import works there.
HANDLED_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD")
    if hasattr(signal, name)
)


class ChildProcesses:
    """The children that a process forks, and its signals. Made and used in the main thread.

    end_seconds: how long a child may take to end after the parent has died.
    """

    def __init__(self, end_seconds: float) -> None:
        self._end_seconds = end_seconds
        # Only the parent has the writing end: the pipe closes when it dies, in whatever way.
        self._lifeline, self._lifeline_write = os.pipe()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers_before = {each: signal.signal(each, _do_nothing) for each in HANDLED_SIGNALS}

    def wait(self, seconds: float | None, *also: int) -> bytes:
        """Sleep until signals come; return their numbers, b"" if none came.

        seconds: how long at most; None: without a limit. also: file descriptors; the wait also
        ends when one of them can be read.
        """
        poll = select.poll()  # select() refuses descriptors above 1023
        for each in (self._read, *also):
            poll.register(each, select.POLLIN)
        poll.poll(None if seconds is None else seconds * 1000)
        try:
            return os.read(self._read, 4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Have the children end that still run, and restore the signal handlers."""
        os.close(self._lifeline_write)
        os.close(self._lifeline)
        for number, handler in self._handlers_before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._read)
        os.close(self._write)

    def fork(self, run: Callable[[], int]) -> int:
        """Fork a child that calls *run* and exits with the status it returns; return its pid.

        In the child SIGTERM has its default action, until *run* sets a handler. SIGINT and SIGHUP
        do nothing: a terminal sends them to all processes, and the parent reacts.
        Raises OSError if the system allows no more processes.
        """
        flush_stdio()  # else the child would write what is left in the buffers as well
        # A signal for the child must not run the parent's handlers, which write to its pipe.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                self._run_child(run, mask)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    # -- in the child

    def _run_child(self, run: Callable[[], int], mask: Iterable[int]) -> NoReturn:
        """Run the whole life of the child; never returns or raises."""
        status = 1
        try:
            atexit._clear()  # as multiprocessing does: those functions are the parent's
            self._drop_parents_resources()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            threading.Thread(
                target=self._end_with_parent, name="asyncjob-lifeline", daemon=True
            ).start()
            status = int(run())
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else int(left.code is not None)
            if isinstance(left.code, str):
                log.error("%s", left.code)
        except BaseException:
            log.exception("an error ends the process")
        finally:
            _exit(status)

    def _drop_parents_resources(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # SIGINT and SIGHUP keep the handler that does nothing: every program that a job starts
        # would inherit SIG_IGN.
        for each in (self._read, self._write, self._lifeline_write):
            os.close(each)

    def _end_with_parent(self) -> None:
        os.read(self._lifeline, 1)
        # To the main thread: it runs the handlers, and a signal interrupts its waiting.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        log.warning("the parent process is gone: this process was sent a SIGTERM")
        time.sleep(self._end_seconds)
        os.kill(os.getpid(), signal.SIGKILL)  # no other process is left to do it


def leave_connections(*kept: int) -> None:
    """Close the copies of the parent's connections, in a forked child: as long as there is a copy,
    the other end does not notice that the parent has closed its own.

    Their descriptors refer to /dev/null afterwards, since the objects that use them are still here.
    kept: descriptors to keep; stdin, stdout and stderr are kept too, which may be connections under
    systemd.
    """
    if not os.path.isdir("/dev/fd"):
        return
    spared = [_file_of(each) for each in (0, 1, 2, *kept)]
    null = os.open(os.devnull, os.O_RDWR)
    for each in map(int, os.listdir("/dev/fd")):
        if _is_connection(each) and _file_of(each) not in spared:
            os.dup2(null, each, inheritable=False)
    os.close(null)


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_connection(descriptor: int) -> bool:
    """Whether a descriptor is a stream socket: a connection, or one that listens."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return copy.type == socket.SOCK_STREAM
    except OSError:  # closed meanwhile: the one that /dev/fd was read with
        return False


def set_title(text: str, program: str = "asyncjob-worker") -> None:
    """Show this process as ``program: text`` to ps and top, if setproctitle is installed."""
    setproctitle(f"{program}: {text}")


def signal_name(number: int) -> str:
    """Return the name of a signal, such as "SIGKILL"."""
    try:
        return signal.Signals(number).name
    except ValueError:  # of the real-time signals only the first and the last have names
        return f"signal {number}"


def _exit(status: int) -> NoReturn:
    """End this process: run its exit functions, and wait for no thread."""
    try:
        atexit._run_exitfuncs()
        logging.shutdown()
        flush_stdio()
    finally:
        os._exit(status & 0xFF)


def flush_stdio() -> None:
    """Write what is left in the buffers of stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # broken, closed, or None
            stream.flush()


def _do_nothing(_number: int, _frame: object) -> None:
    pass
