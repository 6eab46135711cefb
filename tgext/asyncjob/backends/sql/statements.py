"""Statements that are compiled once.

SQLAlchemy takes longer to build a statement and to find it in its cache than the database takes to
execute most of ours. Statements that each job needs are compiled at their first use, when the
schema of the tables is known, and are executed by their text from then on.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, Connection, CursorResult
from sqlalchemy.engine import Dialect


class Statement:
    """One statement in one dialect; its parameters are those of ``bindparam(name)``.

    Values are passed to the driver unchanged: text, numbers, booleans, None, and lists if the
    database has arrays.
    """

    def __init__(self, clause: ClauseElement, dialect: Dialect) -> None:
        self._clause = clause
        self._dialect = dialect
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The SQL text."""
        if self._text is None:
            compiled: Any = self._clause.compile(dialect=self._dialect)
            self._fixed: dict[str, Any] = dict(compiled.params)
            self._order = list(compiled.positiontup) if compiled.positional else None
            self._text = str(compiled)  # last: another thread may run this meanwhile
        return self._text

    def execute(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Execute the statement; values: those of its parameters."""
        return connection.exec_driver_sql(self.text, self._arranged(values))

    def execute_all(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Execute the statement for each of *rows*; keys that are no parameters are ignored."""
        if len(rows) == 1:
            self.execute(connection, **rows[0])
        elif rows:
            text = self.text
            connection.exec_driver_sql(text, [self._arranged(row) for row in rows])

    def _arranged(self, values: dict[str, Any]) -> Any:
        values = {**self._fixed, **values}
        if self._order is None:
            return values
        return tuple([values[name] for name in self._order])
