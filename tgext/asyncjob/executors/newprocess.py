"""Run each call in a new process, and know when that process dies.

The standard library's process pool hands calls to processes that are there already, by a queue:
what is only inherited (a ``multiprocessing.Queue``, an ``Event``) cannot be an argument, and one
process that dies breaks the calls of all others. MultiprocessTaskrunner needs both; for
many calls that need neither there is ``processes.py``. Here each call has its own process::

    submit --start--> process: call, then one message (ok, value) --pipe--> monitor --> future
                      no message, and it has ended: WorkerCrashed
"""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from types import FunctionType
from typing import Any, TypeVar

from ..call import path_of
from ..errors import NotSerializable, WorkerCrashed
from ..processes.forked import call_here
from .remote_errors import Failure

Result = TypeVar("Result")


def why_not_found(function: object) -> str | None:
    """Say why a new process could never be given *function*; None if it may be."""
    if isinstance(function, functools.partial):
        return why_not_found(function.func)
    if isinstance(function, FunctionType):
        # Not more than its name: while it is decorated, its module does not hold it yet.
        if "<" not in function.__qualname__:
            return None
        return f"{path_of(function)} is no module-level function, and cannot be found there by name"
    try:
        pickle.dumps(function)
    except RuntimeError:  # what is inherited by a new process, and given in no other way
        return None
    except Exception as error:  # noqa: BLE001 - its own code runs, and may raise anything
        return f"{path_of(function)} cannot be pickled ({type(error).__name__}: {error})"
    return None


class NewProcessExecutor(Executor):
    """Starts a process for each call, at once, however many there are.

    start_method: None for the one that the program has set or used, else ``forkserver`` where
    there is one: to fork a process that has threads copies locks that are never released.
    """

    def __init__(self, start_method: str | None = None) -> None:
        self._start_method = start_method
        self._lock = threading.RLock()
        self._monitors: set[threading.Thread] = set()
        self._shut_down = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Start the process of one call; return the future of it.

        Raises RuntimeError after ``shutdown``, and in a script without a guard; NotSerializable
        for a call that cannot be handed to a process. A result that cannot is a NotSerializable
        in the future, a process that ended without an answer a WorkerCrashed.
        """
        _expect_guard()
        context: Any = multiprocessing.get_context(self._start_method or _start_method())
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_answer, args=(sender, fn, args, kwargs), name=f"asyncjob-{path_of(fn)}"
        )
        future: Future[Result] = Future()
        monitor = threading.Thread(
            target=self._monitor, args=(process, receiver, future), name="asyncjob-process-monitor"
        )
        with self._lock:
            try:
                if self._shut_down:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                _start(process, fn)
            except BaseException:
                receiver.close()
                raise
            finally:
                sender.close()
            future.set_running_or_notify_cancel()
            self._monitors.add(monitor)
            monitor.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls. wait: until the processes have ended; none is cancelled."""
        with self._lock:
            self._shut_down = True
            monitors = [
                monitor for monitor in self._monitors if monitor is not threading.current_thread()
            ]
        if wait:
            for monitor in monitors:
                monitor.join()

    def _monitor(self, process: Any, receiver: Connection, future: Future[Any]) -> None:
        try:
            succeeded, value = _receive(process, receiver)
            process.join()
            if succeeded:
                future.set_result(value)
            else:
                future.set_exception(value.exception() if isinstance(value, Failure) else value)
        finally:
            receiver.close()
            process.close()
            with self._lock:
                self._monitors.discard(threading.current_thread())


def _expect_guard() -> None:
    """Refuse to start a process while this one still imports the script that started it.

    Forking would work there, and run everything that the script starts once more.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "expected `if __name__ == '__main__':` around what starts a process, but a new "
            "process came here while it imported the script; put it there, or set the start "
            "method fork"
        )


def _start_method() -> str:
    chosen = multiprocessing.get_start_method(allow_none=True)
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    return chosen or ("forkserver" if has_server else "spawn")


def _start(process: Any, function: object) -> None:
    try:
        process.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotSerializable(
            f"expected a call that can be handed to a new process, got one of {path_of(function)} "
            f"that cannot be pickled ({error}); give it a module-level function and plain values, "
            "or run it in a thread"
        ) from error


def _receive(process: Any, receiver: Connection) -> tuple[bool, Any]:
    """Wait for the answer of a process, or for its end."""
    # The end of the pipe is no sign of it: a process forked meanwhile may hold the other end.
    wait([receiver, process.sentinel])
    if receiver.poll():
        try:
            return receiver.recv()  # type: ignore[no-any-return]
        except EOFError:
            pass
        except Exception as error:  # noqa: BLE001 - reading runs code of what was sent
            return False, error
    process.join()
    crash = WorkerCrashed(
        f"expected an answer of the process {process.name!r}, but it ended with exit code "
        f"{process.exitcode} (below 0: by that signal); see what it printed. A script that starts "
        "processes needs `if __name__ == '__main__':` around what it does"
    )
    return False, crash


def _answer(sender: Connection, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Make the call, in the new process, and send what came of it."""
    with sender:
        try:
            value = call_here(fn, args, kwargs)
        except BaseException as error:  # noqa: BLE001 - a SystemExit is an answer, too
            sender.send((False, Failure.of(error)))
            return
        try:
            sender.send((True, value))
        except Exception as error:  # noqa: BLE001 - the value's own code runs
            text = (
                f"expected a result of {path_of(fn)} that can be pickled, got an instance of "
                f"{path_of(type(value))} ({type(error).__name__}: {error}); return plain values"
            )
            sender.send((False, NotSerializable(text)))
