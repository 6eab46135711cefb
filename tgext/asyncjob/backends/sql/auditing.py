"""The audit in a table: each record is written on the connection of what it tells of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from ...job import storable
from ..audit import BEGUN, DONE, NOTHING, SUBJECT_LENGTH, Act, AuditRecord
from .columns import LISTED_LENGTH
from .dialect import Dialect
from .tables import Tables, instant, listed


class SqlAudit:
    """See ``backends.audit.AnyAudit``. now: returns the current time, as SQL."""

    def __init__(
        self, tables: Tables, dialect: Dialect, now: Callable[[], ColumnElement[float]]
    ) -> None:
        self._table = tables.audit
        self._dialect = dialect
        self._now = now

    def note(
        self, connection: Connection, act: Act | None, action: str, subject: str, changed: int
    ) -> None:
        """Write what was done on this connection; None: nobody wants to know."""
        if act is None:
            return
        table = self._table
        if act.number is None:
            self._add(connection, act, action, subject, changed, DONE if changed else NOTHING)
        elif changed:
            more = update(table).where(table.c.number == act.number)
            connection.execute(more.values(changed=table.c.changed + changed))

    def _add(
        self,
        connection: Connection,
        act: Act,
        action: str,
        subject: str,
        changed: int,
        result: str,
    ) -> int:
        made = connection.execute(
            insert(self._table).values(
                at=self._now(),
                user_name=listed(act.user),
                via=act.via,
                action=action,
                subject=storable(subject)[:SUBJECT_LENGTH],
                changed=changed,
                result=result,
            )
        )
        key: Any = made.inserted_primary_key
        return int(key[0])

    def begin(self, act: Act, action: str, subject: str) -> Act:
        with self._dialect.begin() as connection:
            return act._replace(number=self._add(connection, act, action, subject, 0, BEGUN))

    def end(self, number: int, result: str) -> None:
        table = self._table
        ended = update(table).where(table.c.number == number)
        with self._dialect.write() as connection:
            connection.execute(ended.values(result=result[:LISTED_LENGTH]))

    def find(self, number: int) -> AuditRecord | None:
        found = self._read(select(self._table).where(self._table.c.number == number))
        return found[0] if found else None

    def page(self, before: int | None, limit: int) -> list[AuditRecord]:
        number = self._table.c.number
        wanted = select(self._table).order_by(number.desc()).limit(limit)
        return self._read(wanted if before is None else wanted.where(number < before))

    def _read(self, wanted: Any) -> list[AuditRecord]:
        with self._dialect.engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return [
            AuditRecord(
                row.number, instant(row.at), row.user_name, row.via, row.action, row.subject,
                row.changed, row.result,
            )
            for row in rows
        ]  # fmt: skip

    def prune(self, older_than_seconds: float) -> None:
        """Remove the records that are at least so old."""
        is_old = self._table.c.at <= self._now() - older_than_seconds
        with self._dialect.engine.connect() as connection:
            found = connection.execute(select(self._table.c.number).where(is_old).limit(1)).first()
        if found is not None:  # on SQLite a write takes the lock, even of nothing
            with self._dialect.write() as connection:
                connection.execute(delete(self._table).where(is_old))
