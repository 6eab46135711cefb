"""Checks whether a queue can use an application's session, with a message for each kind that it
cannot use.

A job's work is committed by the attempt that runs it, in the thread that runs it. So a session must
take part in the transactions of ``transaction.manager``, belong to one thread, and write to one
database with more than one connection.
"""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import ThreadLocalRegistry
from zope.sqlalchemy import ZopeTransactionEvents, datamanager

from ..errors import ConfigError


def check_kind(scoped: Any) -> None:
    """Raise ConfigError unless *scoped* is a ``scoped_session`` with a session for each thread,
    registered with zope.sqlalchemy: otherwise nothing would commit its work."""
    events = _events_of(scoped)
    if events is None:
        raise _refused(
            f"a scoped_session registered with zope.sqlalchemy, got {type(scoped).__name__}; "
            "nothing would commit its work",
            "make it a scoped_session and add the line `zope.sqlalchemy.register(DBSession)` below "
            "it",
        )
    if events.transaction_manager is not datamanager.zope_transaction.manager:
        raise _refused(
            "a session registered with zope.sqlalchemy for transaction.manager, got one that is "
            "registered for another transaction manager; nothing would commit its work",
            "leave transaction_manager out, or give the queue a session of its own, and use "
            "`with queue.in_transaction(manager=...)` in requests",
        )
    if events.initial_state == datamanager.STATUS_READONLY:
        raise _refused(
            "a session that may write, got one registered with zope.sqlalchemy as read-only",
            "give the queue another one, or none and asyncjob.url",
        )
    if not isinstance(scoped.registry, ThreadLocalRegistry):
        _check_scope(scoped.registry.scopefunc)


def _check_scope(scopefunc: Any) -> None:
    """Refuse a scopefunc that is the same in two threads, or that raises in a thread of ours."""
    found: list[object] = []
    both_are_there = threading.Barrier(2)

    def ask() -> None:
        try:
            found.append(scopefunc())
        except Exception as error:  # noqa: BLE001 - the application's function may raise anything
            found.append(error)
        both_are_there.wait(10)  # else the second thread may get the ident of the first

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    error = next((each for each in found if isinstance(each, Exception)), None)
    if error is not None or found[0] == found[1]:
        got = f"raises {type(error).__name__} there" if error else "is the same for two threads"
        raise _refused(
            f"a scoped_session with a session for each thread, got one whose scopefunc {got}",
            "leave scopefunc out, or let it fall back on threading.get_ident()",
        )


def _events_of(scoped: Any) -> ZopeTransactionEvents | None:
    factory: Any = getattr(scoped, "session_factory", None)
    if not hasattr(factory, "class_") or not hasattr(scoped, "registry"):
        return None
    dispatch = getattr(factory(), "dispatch", None)  # an AsyncSession has none
    listeners = getattr(dispatch, "after_begin", ())
    found = [getattr(listener, "__self__", None) for listener in listeners]
    return next((events for events in found if isinstance(events, ZopeTransactionEvents)), None)


def writer_of(session: Any) -> Any:
    """Return the engine, or connection, that a flush of *session* writes to. Raises as its
    ``get_bind`` does.

    A session that chooses between a primary and its replicas (TurboGears' balanced session, the
    example in SQLAlchemy's manual) chooses by this attribute.
    """
    before, session._flushing = session._flushing, True
    try:
        return session.get_bind()
    finally:
        session._flushing = before


def database_of(session: Any) -> Engine:
    """Return the engine of the database that *session* writes to. Raises ConfigError if there are
    several, or none yet, or if it has one connection for all threads."""
    try:
        bind = writer_of(session)
    except UnboundExecutionError as error:
        raise ConfigError(
            "asyncjob.backend = sql: expected a session with one database, got one that is "
            "bound to none, or to several; bind one to the database of the jobs alone"
        ) from error
    if isinstance(bind, Connection):
        raise _refused(
            "a session that is bound to an engine, got one that is bound to a connection: no "
            "worker sees what is committed inside that connection's own transaction",
            "bind it to the engine, or, in tests that roll everything back, set "
            "asyncjob.backend = memory",
        )
    engine: Engine = bind.engine
    in_memory = engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:")
    if isinstance(engine.pool, StaticPool) and not in_memory:  # that has a message of its own
        raise _refused(
            "an engine with a connection for each thread, got one with StaticPool, where threads "
            "commit each other's work",
            "leave poolclass out of create_engine()",
        )
    begins = type(engine.dialect).do_begin_twophase
    if session.twophase and begins is DefaultDialect.do_begin_twophase:
        raise _refused(
            f"a session that commits in one phase, got one with twophase=True on "
            f"{engine.dialect.name}, which has only one",
            "leave twophase out of sessionmaker()",
        )
    return engine


def _refused(expected: str, way_out: str) -> ConfigError:
    return ConfigError(f"session: expected {expected}: {way_out}")
