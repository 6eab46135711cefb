"""Where a thread is in its code, whether it may be interrupted there, and how that is done.

What is raised in a thread from outside hits the instruction that it is at. In the middle of code
that takes something and has yet to note it (a lock, a connection of a pool, the module of an
import) that thing would be lost for good, to every other thread too. So such code is left alone
until it is through. It is known by its modules and its functions' names; only the interpreter
could tell it for sure.
"""

from __future__ import annotations

import ctypes
import dis
import threading
import traceback
from types import CodeType, FrameType

from ..job import is_ours
from .frames import look

#: Modules, with all below them, in which nothing is interrupted, nor in what they call.
_MODULES = (
    "logging", "queue", "importlib._bootstrap", "importlib._bootstrap_external", "weakref",
    "sqlalchemy.pool", "sqlalchemy.util.queue", "psycopg2.pool", "psycopg_pool", "dbutils",
    "redis.connection", "transaction", "zope.sqlalchemy",
)  # fmt: skip

#: Functions of any module in which the same holds: they take or let go, or finish something.
_FUNCTIONS = frozenset(
    {
        "acquire", "release", "_acquire_restore", "_release_save", "commit", "__del__",
        "__enter__", "__exit__", "__aenter__", "__aexit__",
    }
)  # fmt: skip

#: Methods from whose call what they have taken has yet to come back.
_TAKING = frozenset({"acquire", "acquire_lock", "__enter__"})


def is_good(thread: int, within: CodeType, never: CodeType) -> bool:
    """Whether a thread may be interrupted where it is.

    within: of the function that has called what may be; what called that does not count. never: of
    one in which it may not. Nothing runs in that thread meanwhile: the caller has just got the
    interpreter.
    """
    return look(thread, lambda frame: is_good_at(frame, within, never))


def is_good_at(frame: FrameType | None, within: CodeType, never: CodeType) -> bool:
    """Whether that is so of the thread of this innermost frame."""
    if frame is None or frame.f_code is within or _is_taking(frame):
        return False
    while frame is not None and frame.f_code is not within:
        if frame.f_code is never or _leaves_alone(frame):
            return False
        frame = frame.f_back
    return frame is not None


def _leaves_alone(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__") or ""
    if frame.f_code.co_name in _FUNCTIONS:
        return True
    parts = module.split(".")
    return "pool" in parts or any(
        module == each or module.startswith(f"{each}.") for each in _MODULES
    )


def _is_taking(frame: FrameType) -> bool:
    """Whether the instruction that a frame is at calls something that takes a lock."""
    code = frame.f_code
    if _TAKING.isdisjoint(code.co_names):
        return False
    if frame.f_globals.get("__name__") == "threading" and code.co_name == "wait":
        return False  # what it takes there is its own
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
    """Where a thread is, from the first frame below this package's."""
    return look(thread, _stack_at)


def _stack_at(frame: FrameType | None) -> str:
    frames = []
    while frame is not None and not is_ours(frame):
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "".join(traceback.StackSummary.extract(reversed(frames)).format())


def raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise *error* in a thread at its next bytecode."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


class _TakenBack(BaseException):
    """Raised by a thread in itself."""


def take_back() -> None:
    """See to it that nothing which others have raised in this thread arrives any more.

    By another exception in its place, which is caught here. The interpreter would also take it
    back, but never forgets then that something was to arrive: all threads would go a slower way
    at each call, and one with a trace or profile function would never come out of it again.
    """
    try:
        raise_in(threading.get_ident(), _TakenBack)
        while True:
            pass
    except _TakenBack:
        pass
