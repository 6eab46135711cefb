"""What keeps a database to the index that a statement was written for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

#: What PostgreSQL is not to do for our own connections. Each of our statements has an index that it
#: is to follow in its order; where statistics are missing, or say that most rows would do, it would
#: rather read the table until it finds one, or sort all that waits for the sake of the first.
_DETOURS = ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit")


def keep_to_indexes(connection: Any, cursor: Any) -> None:
    """Forbid PostgreSQL detours for a session that is ours alone; one that a pooler hands on to
    others shows another process than the connection does."""
    pid = int(getattr(getattr(connection, "info", None), "backend_pid", 0))
    names = ", ".join(f"'{name}'" for name in _DETOURS)
    cursor.execute(
        "SELECT set_config(name, 'off', false) FROM pg_settings "
        f"WHERE name IN ({names}) AND pg_backend_pid() = {pid}"
    )


class is_just(FunctionElement[bool]):
    """That a column is a number, as the condition of a partial index says it."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        return self  # with a comparison around it no database would know the index's condition


@compiles(is_just)
def _is_just_that(element: Any, compiler: Any, **options: Any) -> str:
    column, number = (compiler.process(each, **options) for each in element.clauses)
    return f"({column} = {number})"


@compiles(is_just, "postgresql")
def _is_just_that_on_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    column, number = (compiler.process(each, **options) for each in element.clauses)
    # A condition that the index's own implies is dropped before the index is searched, and then
    # nothing is said of its first column: all of it is read. The second one cannot be seen
    # through.
    return f"({column} = {number} AND {column} = ANY (ARRAY(SELECT {number}::smallint)))"
