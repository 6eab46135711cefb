"""Refuses a connection of a parent process in a forked child, when it is taken from its pool.

A queue leaves the parent's connections behind at a fork. This is the check that it has: for the
processes of a fleet, where the forks are another program's.
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

#: The key in the info of a pooled connection with the pid of the process that it belongs to.
_PID = "asyncjob_pid"


def keep_to_process(engine: Engine) -> None:
    """Let connections of *engine* be used only by the process that has opened them."""
    if not event.contains(engine, "checkout", _check):
        event.listen(engine, "connect", _note)
        event.listen(engine, "checkout", _check)


def _note(_driver: Any, record: Any) -> None:
    record.info[_PID] = os.getpid()


def _check(_driver: Any, record: Any, proxy: Any) -> None:
    if record.info.setdefault(_PID, os.getpid()) != os.getpid():
        # Left to the parent, not closed: that would end it there too. The pool makes another one.
        record.dbapi_connection = proxy.dbapi_connection = None
        raise InvalidatePoolError(
            f"expected a connection of process {os.getpid()}, got one of {record.info[_PID]}, "
            "which has forked it"
        )
