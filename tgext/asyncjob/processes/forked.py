"""End a child process that a call has forked and that returns from the call.

If an ``exec`` fails, or ``os._exit`` is forgotten, the child would continue as the caller: as a
worker that is not registered, on the parent's connections. It ends at once instead. It flushes no
buffer, closes no connection and calls no exit function, since all of these are the parent's.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

#: How many forks this process is away from the first one. Compared instead of the pid: to ask for
#: that is a system call, which costs too much at each job.
_generation = 0

#: Connections and sessions of the parent; kept, since collecting them would close them.
_left: list[Any] = []


def only_here(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Have *function* return or raise only in the process that called it, not in its children."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        begun = _generation
        try:
            value = function(*args, **kwargs)
        except BaseException as error:
            if _generation != begun:
                _end(error)
            raise
        if _generation != begun:
            _end(None)
        return value

    return call


@only_here
def call_here(function: Callable[..., Result], args: Any, kwargs: Any) -> Result:
    """Make a call that returns or raises only in this process."""
    return function(*args, **kwargs)


def generation() -> int:
    """Return a number that differs between this process and every child that it forks."""
    return _generation


def end_child_of(begun: int, error: BaseException | None = None) -> None:
    """End this process, unless it is of generation *begun*. error: what its call raised."""
    if _generation != begun:
        _end(error)


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)


def leave_session(scoped: Any) -> None:
    """Detach this thread's session from its connections, in a forked child.

    What happens to it in the child, such as a rollback at the end of a ``with`` block, then does
    not reach the server. scoped: SQLAlchemy's ``scoped_session``; its next use makes a new session.
    """
    if not scoped.registry.has():
        return
    session = scoped()
    begun = session.get_transaction()
    for connection, *_ in begun._connections.values() if begun is not None else ():
        driver = connection.connection.driver_connection
        _left.append(driver)
        descriptor = _descriptor_of(driver)
        if descriptor is not None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor, inheritable=False)
            os.close(null)
    _left.append(session)
    scoped.registry.clear()


def _descriptor_of(driver: Any) -> int | None:
    """Return the socket of a driver's connection; None: it has none, or does not show it."""
    owners: list[Any] = [driver, getattr(driver, "_sock", None)]  # the second is PyMySQL's
    for owner in owners:
        with suppress(Exception):
            return int(owner.fileno())
    return None


def _end(error: BaseException | None) -> NoReturn:
    """End with the exit status and the traceback that an interpreter would give."""
    text, status = "", 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        text = f"{error.code}\n" if isinstance(error.code, str) else ""
    elif error is not None:
        status = 1
        with suppress(BaseException):  # printing an exception runs its own code
            text = "".join(traceback.format_exception(error))
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))  # sys.stderr is buffered
    os._exit(status & 0xFF)
