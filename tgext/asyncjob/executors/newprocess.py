"""Run each call in a new process, and detect the death of that process.

The standard library's process pool sends calls to existing processes by a queue. So an object
that a process can only inherit (a ``multiprocessing.Queue``, an ``Event``) cannot be an argument,
and one process that dies breaks the calls of all others. MultiprocessTaskrunner needs both;
``processes.py`` is for many calls that need neither. Here each call has its own process::

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
    """Return why a new process cannot be given *function*; None if it possibly can."""
    if isinstance(function, functools.partial):
        return why_not_found(function.func)
    if isinstance(function, FunctionType):
        # By its name only: while it is being decorated, its module does not have it yet.
        if "<" not in function.__qualname__:
            return None
        return f"{path_of(function)} is no module-level function, and cannot be found there by name"
    try:
        pickle.dumps(function)
    except RuntimeError:  # it can be inherited by a new process, and in no other way
        return None
    except Exception as error:  # noqa: BLE001 - its own code runs, and may raise anything
        return f"{path_of(function)} cannot be pickled ({type(error).__name__}: {error})"
    return None


class NewProcessExecutor(Executor):
    """Starts a process for each call, at once, without a limit.

    start_method: of multiprocessing; None: the one that the program has set or used, else
    ``forkserver`` if the system has it: a fork of a process with threads copies locks that are
    never released.
    """

    def __init__(self, start_method: str | None = None) -> None:
        self._start_method = start_method
        self._lock = threading.RLock()
        self._monitors: set[threading.Thread] = set()
        self._shut_down = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Start the process of one call; return its future.

        Raises RuntimeError after ``shutdown``, and in a script without a guard; NotSerializable if
        the call cannot be sent to a process. The future raises NotSerializable if the result cannot
        be sent back, WorkerCrashed if the process ends without an answer.
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
        """Refuse further calls. wait: return when the processes have ended. None is cancelled."""
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
    """Raise RuntimeError in a new process that still imports the script that started it.

    A fork would work there, and would start everything in the script again.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "expected `if __name__ == '__main__':` around the code that starts a process, but a "
            "new process ran that code while it imported the script; put it there, or set the "
            "start method fork"
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
            f"expected a call that can be sent to a new process, got one of {path_of(function)} "
            f"that cannot be pickled ({error}); give it a module-level function and plain values, "
            "or run it in a thread"
        ) from error


def _receive(process: Any, receiver: Connection) -> tuple[bool, Any]:
    """Wait for the answer of a process, or for its end."""
    # The pipe alone does not show its end: a process forked meanwhile may hold the other end.
    wait([receiver, process.sentinel])
    if receiver.poll():
        try:
            return receiver.recv()  # type: ignore[no-any-return]
        except EOFError:
            pass
        except Exception as error:  # noqa: BLE001 - the classes of the answer may raise anything
            return False, error
    process.join()
    crash = WorkerCrashed(
        f"expected an answer of the process {process.name!r}, but it ended with exit code "
        f"{process.exitcode} (below 0: by that signal); see its output. A script that starts "
        "processes needs `if __name__ == '__main__':` around the code that does"
    )
    return False, crash


def _answer(sender: Connection, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Make the call, in the new process, and send its result or exception."""
    with sender:
        try:
            value = call_here(fn, args, kwargs)
        except BaseException as error:  # noqa: BLE001 - a SystemExit is sent too
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
