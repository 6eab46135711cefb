"""Statements that are compiled once.

SQLAlchemy takes longer to build a statement and to find it in its cache than the database takes to
execute most of ours. Statements that each job needs are built and compiled at their first use, when
the schema of the tables is known, and are executed by their text from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, ClauseElement, Connection, CursorResult, bindparam
from sqlalchemy.engine import Dialect

#: Builds a clause.
Build = Callable[[], ClauseElement]


class Statement:
    """One statement in one dialect; its parameters are those of ``bindparam(name)``.

    Values are passed to the driver unchanged: text, numbers, booleans, None, and lists if the
    database has arrays.
    """

    def __init__(self, build: Build, dialect: Dialect) -> None:
        self._build = build
        self._dialect = dialect
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The SQL text."""
        if self._text is None:
            compiled: Any = self._build().compile(dialect=self._dialect)
            self._fixed: dict[str, Any] = dict(compiled.params)
            self._order = list(compiled.positiontup) if compiled.positional else None
            self._text = str(compiled)  # last: another thread may run this meanwhile
        return self._text

    def execute(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Execute the statement; values: those of its parameters."""
        return connection.exec_driver_sql(self.text, self._arranged(values))

    def execute_all(
        self, connection: Connection, rows: Sequence[Mapping[str, Any]], **common: Any
    ) -> None:
        """Execute the statement for each of *rows*; keys that are no parameters are ignored.
        common: the values of parameters that are the same for all."""
        if len(rows) == 1:
            self.execute(connection, **rows[0], **common)
        elif rows:
            text = self.text
            connection.exec_driver_sql(text, [self._arranged({**row, **common}) for row in rows])

    def _arranged(self, values: dict[str, Any]) -> Any:
        values = {**self._fixed, **values}
        if self._order is None:
            return values
        return tuple([values[name] for name in self._order])


class ListStatement:
    """A statement with a list of values, each of them a parameter.

    It is compiled once for each power of 2, and a shorter list is filled with its last value: the
    list must be one in which a value may be twice, as that of IN.
    """

    def __init__(
        self, build: Callable[[Sequence[BindParameter[Any]]], ClauseElement], dialect: Dialect
    ) -> None:
        self._build = build
        self._dialect = dialect
        self._of_size: dict[int, Statement] = {}

    def execute(
        self, connection: Connection, items: Sequence[Any], **values: Any
    ) -> CursorResult[Any]:
        """Execute the statement for *items*, at least one; values: those of its parameters."""
        size = 1 << (len(items) - 1).bit_length()
        statement = self._of_size.get(size)
        if statement is None:
            parameters: list[Any] = [bindparam(f"item_{number}") for number in range(size)]
            statement = Statement(lambda: self._build(parameters), self._dialect)
            self._of_size[size] = statement
        filled = [*items, *[items[-1]] * (size - len(items))]
        values.update((f"item_{number}", item) for number, item in enumerate(filled))
        return statement.execute(connection, **values)
