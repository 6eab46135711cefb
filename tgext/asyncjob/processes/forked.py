"""A child that a call has forked, and that comes back from the call: it ends there.

An ``exec`` that fails, or a forgotten ``os._exit``, would have the child go on as the caller: as
a worker that is not registered, on the parent's connections. It ends at once instead: no
buffer is flushed, no connection closed, no exit function called, all of which are the parent's.
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

#: How many forks this process is away from the first one: to ask for its number is a system call,
#: and too much for each job.
_generation = 0

#: What is the parent's: kept, since to collect it would end it.
_left: list[Any] = []


def only_here(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make *function* return or raise in the process that called it, and in no child of its."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        begun = _generation
        try:
            value = function(*args, **kwargs)
        except BaseException as error:
            end_child_of(begun, error)
            raise
        end_child_of(begun)
        return value

    return call


@only_here
def call_here(function: Callable[..., Result], args: Any, kwargs: Any) -> Result:
    """Return what a call returns, or raise what it raises."""
    return function(*args, **kwargs)


def generation() -> int:
    """Return what differs between this process and every child that it forks."""
    return _generation


def end_child_of(begun: int, error: BaseException | None = None) -> None:
    """End this process, unless it is of this generation. error: with which it came back."""
    if _generation != begun:
        _end(error)


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)


def leave_session(scoped: Any) -> None:
    """Leave this thread's session to the parent as it is: whatever the child does with it, be it
    that a ``with`` block rolls back or that Python collects it, must not reach the server.

    scoped: SQLAlchemy's ``scoped_session``; its next use makes a new session.
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
    """The socket of a driver's connection to a server; None where it has none that it shows."""
    owners: list[Any] = [driver, getattr(driver, "_sock", None)]  # the second is PyMySQL's
    for owner in owners:
        with suppress(Exception):
            return int(owner.fileno())
    return None


def _end(error: BaseException | None) -> NoReturn:
    """End as an interpreter would that nothing else runs in."""
    text, status = "", 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        text = f"{error.code}\n" if isinstance(error.code, str) else ""
    elif error is not None:
        status = 1
        with suppress(BaseException):  # what was raised may raise when it is printed
            text = "".join(traceback.format_exception(error))
    with suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace"))  # sys.stderr is buffered
    os._exit(status & 0xFF)
