"""The SQL text of many ranges of an index in one statement.

A list reads a range for each priority in use. Of these only the number of the priority differs: the
SELECT is built and compiled once, and its text is repeated. To build each of them took most of the
time of a page, and left so many objects that removing them stopped the process now and then.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, Integer, literal_column
from sqlalchemy.engine import Dialect

#: Stands for the number of a priority.
RANK = literal_column("<rank>", Integer())


class Text(NamedTuple):
    """SQL text, and the values of its parameters, which have no names: texts can be joined."""

    sql: str
    values: tuple[Any, ...] = ()

    def of(self, rank: int | None) -> Text:
        """Return the text for a priority."""
        return self if rank is None else Text(self.sql.replace(RANK.name, str(rank)), self.values)

    def execute(self, connection: Connection) -> CursorResult[Any]:
        return connection.exec_driver_sql(self.sql, self.values)


class RangeTexts:
    """Makes texts in the SQL of one database."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._positional: Any = None

    def of(self, selected: Any) -> Text:
        """Return the text of a SELECT or of a subquery."""
        if self._positional is None:  # now the version of the server is known
            made: Any = copy.copy(self._dialect)
            if not made.positional:
                made.positional, made.paramstyle = True, "format"
            self._positional = made
        compiled = selected.compile(
            dialect=self._positional, compile_kwargs={"render_postcompile": True}
        )
        values = compiled.params
        return Text(str(compiled), tuple([values[name] for name in compiled.positiontup]))

    def union_all(self, texts: Sequence[Text]) -> Text:
        """Return a SELECT of all their rows, each of which has an order of its own."""
        if len(texts) == 1:
            return texts[0]
        if self._dialect.name == "sqlite":  # which takes an order only in a subquery
            each = [f"SELECT * FROM ({text.sql})" for text in texts]
        else:  # MariaDB would copy the rows of a subquery
            each = [f"({text.sql})" for text in texts]
        return Text(" UNION ALL ".join(each), _values(texts))


def columns(texts: Sequence[Text]) -> Text:
    """Return a SELECT of one row, with a column for each text, which selects one value."""
    return Text("SELECT " + ", ".join(f"({each.sql})" for each in texts), _values(texts))


def count(text: Text) -> Text:
    """Return a SELECT of the number of its rows."""
    return Text(f"SELECT count(*) FROM ({text.sql}) AS found", text.values)


def _values(texts: Sequence[Text]) -> tuple[Any, ...]:
    return tuple([value for each in texts for value in each.values])
