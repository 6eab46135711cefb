"""Statements that are compiled once.

SQLAlchemy takes longer to build a statement and to look it up than the database takes to execute
most of ours. Those that every job needs are built when the backend is
made, and executed by their text from then on.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ClauseElement, Connection, CursorResult
from sqlalchemy.engine import Dialect


class Statement:
    """One statement in one dialect; its parameters are those of ``bindparam(name)``.

    Values go to the driver as they are: text, numbers, booleans, None, and lists where the
    database knows arrays.
    """

    def __init__(self, clause: ClauseElement, dialect: Dialect) -> None:
        compiled: Any = clause.compile(dialect=dialect)
        self.text = str(compiled)
        self._fixed: dict[str, Any] = dict(compiled.params)
        self._order: list[str] | None = list(compiled.positiontup) if compiled.positional else None

    def execute(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Execute it; *values*: of the parameters."""
        return connection.exec_driver_sql(self.text, self._arranged(values))

    def execute_all(self, connection: Connection, rows: list[dict[str, Any]]) -> None:
        """Execute it for each of *rows*, whose other keys are passed over."""
        if len(rows) == 1:
            self.execute(connection, **rows[0])
        elif rows:
            connection.exec_driver_sql(self.text, [self._arranged(row) for row in rows])

    def _arranged(self, values: dict[str, Any]) -> Any:
        values = {**self._fixed, **values}
        if self._order is None:
            return values
        return tuple([values[name] for name in self._order])
