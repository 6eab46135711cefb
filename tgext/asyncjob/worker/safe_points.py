"""Points at which a thread may be interrupted, and how to interrupt it there.

An exception raised in a thread from outside hits its current instruction. Code that has acquired
something and not stored it yet (a lock, a connection of a pool, the module of an import) would lose
it for all threads. So such code is not interrupted. It is recognized by its modules and function
names; only the interpreter could tell for sure.
"""

from __future__ import annotations

import ctypes
import dis
import sys
import threading
import traceback
from types import CodeType, FrameType

from ..job import is_ours
from .frames import inspect_frame

#: Modules, with all below them, in which nothing is interrupted, nor in what they call.
_MODULES = (
    "logging", "queue", "importlib._bootstrap", "importlib._bootstrap_external", "weakref",
    "sqlalchemy.pool", "sqlalchemy.util.queue", "psycopg2.pool", "psycopg_pool", "dbutils",
    "redis.connection", "transaction", "zope.sqlalchemy",
)  # fmt: skip

#: Functions of any module in which nothing is interrupted: they acquire, release or finalize.
_FUNCTIONS = frozenset(
    {
        "acquire", "release", "_acquire_restore", "_release_save", "commit", "__del__",
        "__enter__", "__exit__", "__aenter__", "__aexit__",
    }
)  # fmt: skip

#: Up to Python 3.11 a thread that is starting has the identifier of the thread that starts it, and
#: would get what is raised in that one.
_STARTING = ("threading", "start")

#: Methods that acquire something: between the call and the next instruction it is held by nothing.
_TAKING = frozenset({"acquire", "acquire_lock", "__enter__"})


def raise_if_safe(
    thread: int, error: type[BaseException], within: CodeType, never: CodeType
) -> bool:
    """Raise *error* in a thread at its next bytecode if it may be interrupted where it is; return
    whether it may.

    within: code of the function whose callees may be interrupted; its callers do not count.
    never: code of a function that may not be interrupted. The thread does not run between the check
    and the exception, since the caller holds the interpreter.
    """

    def look(frame: FrameType | None) -> bool:
        is_safe = is_safe_at(frame, within, never)
        if is_safe:
            raise_in(thread, error)
        return is_safe

    return inspect_frame(thread, look)


def is_safe_at(frame: FrameType | None, within: CodeType, never: CodeType) -> bool:
    """Whether the thread of this innermost frame may be interrupted, as in ``raise_if_safe``."""
    if frame is None or frame.f_code is within or _is_taking(frame):
        return False
    while frame is not None and frame.f_code is not within:
        if frame.f_code is never or _is_protected(frame):
            return False
        frame = frame.f_back
    return frame is not None


def _is_protected(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__") or ""
    if frame.f_code.co_name in _FUNCTIONS or (module, frame.f_code.co_name) == _STARTING:
        return True
    parts = module.split(".")
    return "pool" in parts or any(
        module == each or module.startswith(f"{each}.") for each in _MODULES
    )


def _is_taking(frame: FrameType) -> bool:
    """Whether the current instruction of a frame calls a method that acquires something."""
    code = frame.f_code
    if _TAKING.isdisjoint(code.co_names):
        return False
    if frame.f_globals.get("__name__") == "threading" and code.co_name == "wait":
        return False  # Condition.wait acquires a lock of its own there
    called = ""
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith(("LOAD_METHOD", "LOAD_ATTR")):
            called = str(instruction.argval)
        elif instruction.opname.startswith(("STORE", "POP_TOP", "POP_JUMP", "RETURN")):
            called = ""
        if instruction.offset >= frame.f_lasti:
            break
    return called in _TAKING


def stack_of(thread: int) -> str:
    """Return the stack of a thread as text, beginning below the frames of this package."""
    return inspect_frame(thread, _stack_at)


def _stack_at(frame: FrameType | None) -> str:
    frames = []
    while frame is not None and not is_ours(frame):
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "".join(traceback.StackSummary.extract(reversed(frames)).format())


def raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise *error* in a thread at its next bytecode."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def restore_handled(before: BaseException | None) -> None:
    """Make *before* the exception that this thread is handling, again; None: it handles none.

    An exception that was raised from outside may hit the last instructions of a handler, which then
    leaves its own behind: every later error of the thread would be "raised while handling" it.
    """
    if sys.exc_info()[1] is before:
        return
    if before is None:
        ctypes.pythonapi.PyErr_SetExcInfo(None, None, None)
    elif sys.version_info >= (3, 11):  # the other function would take references from us
        ctypes.pythonapi.PyErr_SetHandledException(ctypes.py_object(before))


class _Discard(BaseException):
    """Raised by ``discard_pending`` in its own thread."""


def discard_pending() -> None:
    """Discard an exception that another thread has raised in this one and that is still pending.

    Another exception replaces it, which is caught here. The interpreter could also cancel it, but
    would go on to take the slow path at each call in all threads, and a thread with a trace or
    profile function would never leave that.
    """
    try:
        raise_in(threading.get_ident(), _Discard)
        while True:
            pass
    except _Discard:
        pass
