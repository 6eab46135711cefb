"""Connections to PostgreSQL, kept open from one engine to the next.

Nearly each test has engines of its own. For each connection PostgreSQL starts a process that reads
its catalogue anew: that takes ten times as long as the statements of a small test. What an engine
has closed is reset as poolers do, by DISCARD ALL, and the next that connects with the same
parameters takes it. For all that is above libpq that is a new connection, and the one before is
closed. A connection that cannot be reset is really closed, and so are those of servers of a test's
own, which may die, but for those of ``kept_to``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import pq
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

#: How many are kept with the same parameters: the server has a hundred for all.
_MOST = 4

#: The ports of servers of a test's own, of which connections are kept.
_ports: set[int] = set()

#: What is kept, by process, as a forked one must not use what is its parent's, and by parameters.
_kept: defaultdict[tuple[int, str], list[pq.abc.PGconn]] = defaultdict(list)

_connect = psycopg.Connection._connect_gen.__func__  # type: ignore[attr-defined]
_close = PGDialect_psycopg.do_close


def keep_connections(patch: pytest.MonkeyPatch) -> None:
    """Keep what SQLAlchemy closes from now on."""
    patch.setattr(psycopg.Connection, "_connect_gen", classmethod(_connected))
    patch.setattr(PGDialect_psycopg, "do_close", _closed)


def close_kept() -> None:
    """Close all that is kept."""
    for kept in _kept.values():
        for session in kept:
            session.finish()
    _kept.clear()


@contextmanager
def kept_to(port: int) -> Iterator[None]:
    """Keep connections to a server that lives as long as the block."""
    _ports.add(port)
    try:
        yield
    finally:
        _ports.remove(port)
        close_kept()


def _is_kept(conninfo: str) -> bool:
    if "host=127.0.0.1" not in conninfo or "application_name=" in conninfo:
        return False  # who names the connections counts them on the server
    port = re.search(r"port=(\d+)", conninfo)
    return port is None or int(port[1]) in _ports


def _connected(of: Any, conninfo: str = "") -> Iterator[Any]:
    """Do as ``psycopg.Connection._connect_gen`` does."""
    key = (os.getpid(), conninfo)
    try:
        made = of(_kept[key].pop())
    except IndexError:
        made = yield from _connect(of, conninfo)
    if _is_kept(conninfo):
        made.kept_as = key
    return made


def _closed(dialect: Any, connection: Any) -> None:
    """Do as the ``do_close`` of the dialect does."""
    kept = _kept[key] if (key := getattr(connection, "kept_as", None)) else None
    if kept is None or key[0] != os.getpid() or len(kept) >= _MOST or not _reset(connection):
        _close(dialect, connection)
        return
    session = connection.pgconn
    connection.pgconn = pq.PGconn.connect_start(b"host=127.0.0.1 port=1")
    connection.pgconn.finish()
    kept.append(session)


def _reset(connection: Any) -> bool:
    session = connection.pgconn
    if session.transaction_status != pq.TransactionStatus.IDLE or connection._pipeline is not None:
        return False
    if session.exec_(b"DISCARD ALL").status != pq.ExecStatus.COMMAND_OK:
        return False
    while session.notifies() is not None:
        pass  # meant for who has listened
    return True
