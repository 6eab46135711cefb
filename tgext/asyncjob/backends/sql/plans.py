"""Makes a database use the index that a statement was written for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

#: Settings of the planner that are off for our own connections to PostgreSQL. Each of our
#: statements is written for an index in its order. Without statistics, or if most rows match, the
#: planner would scan the table until it finds a row, or sort all waiting jobs to find the first.
_DETOURS = ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit")


def keep_to_indexes(connection: Any, cursor: Any) -> None:
    """Turn these settings off, unless the session is a pooler's and is shared with others: then the
    connection shows the id of another server process than the session does."""
    pid = int(getattr(getattr(connection, "info", None), "backend_pid", 0))
    names = ", ".join(f"'{name}'" for name in _DETOURS)
    cursor.execute(
        "SELECT set_config(name, 'off', false) FROM pg_settings "
        f"WHERE name IN ({names}) AND pg_backend_pid() = {pid}"
    )


class is_just(FunctionElement[bool]):
    """The condition that a column equals a number, as a partial index needs it."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        return self  # in parentheses no database would recognize the condition of the index


@compiles(is_just)
def _is_just_that(element: Any, compiler: Any, **options: Any) -> str:
    column, number = (compiler.process(each, **options) for each in element.clauses)
    return f"({column} = {number})"


@compiles(is_just, "postgresql")
def _is_just_that_on_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    column, number = (compiler.process(each, **options) for each in element.clauses)
    # The planner drops a condition that the index implies, and then searches the index without its
    # first column: it reads all of it. It cannot prove that the second condition is implied.
    return f"({column} = {number} AND {column} = ANY (ARRAY(SELECT {number}::smallint)))"


class is_in_partial(FunctionElement[bool]):
    """The condition that a column is not NULL, as a partial index needs it, where another condition
    implies it. Where no index is partial it is left out: MariaDB would read the index of the
    column, and so all rows that have one, when its samples of the table say so."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        return self


@compiles(is_in_partial)
def _is_in_partial(element: Any, compiler: Any, **options: Any) -> str:
    [column] = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IS NOT NULL"


@compiles(is_in_partial, "mysql", "mariadb")
def _is_in_no_partial(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "TRUE"
