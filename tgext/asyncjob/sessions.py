"""The application's SQLAlchemy sessions: one for each thread, from its ``scoped_session``.

Loaded only where there is one: the rest of the package runs without SQLAlchemy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Query
from sqlalchemy.sql.selectable import SelectBase
from zope.sqlalchemy import ZopeTransactionEvents, datamanager

from .current import attempt_var
from .errors import BadCall, ConfigError

log = logging.getLogger(__name__)


class Sessions:
    """A ``scoped_session`` that is registered with zope.sqlalchemy.

    Raises ConfigError for anything else: nobody would commit its work.
    """

    def __init__(self, scoped: Any) -> None:
        if not _is_registered(scoped):
            raise ConfigError(
                f"session: expected a scoped_session registered with zope.sqlalchemy, got "
                f"{type(scoped).__name__}; nobody would commit its work: make it a scoped_session "
                "and add the line `zope.sqlalchemy.register(DBSession)` below it"
            )
        self.scoped = scoped
        event.listen(scoped, "before_commit", _fenced)
        self._has_session: Callable[[], bool] = scoped.registry.has

    def watch_savepoints(
        self, begun: Callable[[Any], None], rolled_back: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Call *begun* with each ``begin_nested()`` of these sessions, and *rolled_back* with
        it where it is rolled back. Returns what ends that."""

        def after_create(_session: Any, created: Any) -> None:
            if created.nested:
                begun(created)

        def after_rollback(_session: Any, ended: Any) -> None:
            if ended.nested:
                rolled_back(ended)

        event.listen(self.scoped, "after_transaction_create", after_create)
        event.listen(self.scoped, "after_soft_rollback", after_rollback)

        def unwatch() -> None:
            event.remove(self.scoped, "after_transaction_create", after_create)
            event.remove(self.scoped, "after_soft_rollback", after_rollback)

        return unwatch

    def holds_work(self) -> bool:
        """Whether this thread's session has changes that are not committed."""
        if not self._has_session():
            return False
        session = self.scoped()
        if session.new or session.dirty or session.deleted:
            return True
        # What it has flushed already only zope.sqlalchemy knows, and tells nobody else.
        return bool(datamanager._SESSION_STATE.get(session) == datamanager.STATUS_CHANGED)

    def holds_objects(self) -> bool:
        """Whether this thread's session has loaded or been given any instance."""
        return self._has_session() and bool(self.scoped().identity_map)

    def remove(self) -> None:
        """Close this thread's session, if it has one; the next use makes a new one."""
        if not self._has_session():
            return
        try:
            self.scoped.remove()
        except Exception:
            # The connection is gone, say. The registry must not hand this session out again.
            log.exception("could not close the session of a job")
            self.scoped.registry.clear()


def _fenced(session: Any) -> None:
    """Ask the running job's attempt before each commit, also one in the middle of the job."""
    attempt = attempt_var.get()
    if attempt is not None and not session.in_nested_transaction():
        attempt.commits()


def _is_registered(scoped: Any) -> bool:
    factory = getattr(scoped, "session_factory", None)
    if factory is None or not hasattr(scoped, "registry"):
        return False
    listeners = getattr(factory().dispatch, "after_begin", ())
    found = [getattr(listener, "__self__", None) for listener in listeners]
    # With a manager of its own it joins a transaction that no attempt commits.
    return any(
        isinstance(events, ZopeTransactionEvents)
        and events.transaction_manager is datamanager.zope_transaction.manager
        for events in found
    )


def wait_for_row(
    query: Any,
    sessions: Sessions | None,
    *,
    looks: int,
    pause: Callable[[], None],
    end_snapshot: Callable[[], None],
) -> None:
    """Look whether *query* has a row, *looks* times at the most, with a *pause* between two.

    query: a legacy ``Query``, or a ``select()``, run in this thread's session.
    Where the session holds nothing that could be lost, its transaction is ended before the
    next look: on a database that reads a snapshot it would never see a new row.
    Raises BadCall for anything else than a query.
    """
    while True:
        looks -= 1
        if _finds_something(query, sessions) or looks <= 0:
            return
        if sessions is None or not sessions.holds_objects():
            end_snapshot()
        pause()


def _finds_something(query: Any, sessions: Sessions | None) -> bool:
    if isinstance(query, Query):
        return query.first() is not None
    if isinstance(query, SelectBase) and sessions is not None:
        return sessions.scoped.execute(query).first() is not None
    raise BadCall(
        "asyncjob_timed_query: expected a Query, or a select() where the queue has a session, "
        f"got an instance of {type(query).__module__}.{type(query).__qualname__}"
    )
