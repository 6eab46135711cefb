"""Which priorities the jobs have that wait for a worker: few searches of an index for each of them.

PostgreSQL and SQLite find each from the one before. MariaDB would read all that waits for that: in
a recursion it does not search by a bound that differs from row to row. There each priority between
the highest and the lowest is looked for. (GROUP BY would be faster, but as long as its statistics
of the table are older than its rows MariaDB reads all that waits for that, too.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, literal_column, select, union_all

from .dialect import Dialect
from .statements import Statement
from .tables import Tables


class Ranks:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._dialect = dialect
        #: by the states that they read
        self._built: dict[tuple[int, ...], Statement] = {}

    def in_use(self, of: Sequence[int], connection: Connection) -> dict[int, list[int]]:
        """Return the ranks of the jobs in each of these states, in their order: AVAILABLE, BLOCKED,
        or both."""
        found: dict[int, list[int]] = {state: [] for state in of}
        if not found:
            return found
        key = tuple(found)
        statement = self._built.get(key)
        if statement is None:
            ranks = self._each if self._dialect.steps_in_recursion else self._between
            statement = self._dialect.compiled(lambda: union_all(*map(ranks, key)))
            self._built[key] = statement
        for row in statement.execute(connection):
            if row.is_used:
                found[row.state].append(row.rank)
        return found

    def _each(self, state: int) -> Any:
        jobs = self._jobs
        first = select(jobs.c.rank).where(self._tables.stands(state))
        first = first.order_by(jobs.c.rank, jobs.c.number).limit(literal_column("1"))
        ranks = select(first.scalar_subquery().label("rank")).cte(f"of_{state}", recursive=True)
        following = first.where(jobs.c.rank > ranks.c.rank).scalar_subquery()
        ranks = ranks.union_all(select(following).where(ranks.c.rank.is_not(None)))
        return _selected(state, ranks.c.rank, ranks.c.rank.is_not(None))

    def _between(self, state: int) -> Any:
        jobs, rank = self._jobs, self._jobs.c.rank
        ends = select(func.min(rank).label("rank"), func.max(rank).label("last"))
        ranks = ends.where(self._tables.stands(state)).cte(f"of_{state}", recursive=True)
        following = select(ranks.c.rank + literal_column("1"), ranks.c.last)
        ranks = ranks.union_all(following.where(ranks.c.rank < ranks.c.last))
        one = select(jobs.c.state).where(self._tables.stands(state), rank == ranks.c.rank)
        is_used = one.limit(literal_column("1")).scalar_subquery().is_not(None)
        return _selected(state, ranks.c.rank, is_used)


def _selected(state: int, rank: Any, is_used: Any) -> Any:
    return select(literal_column(str(state)).label("state"), rank, is_used.label("is_used"))
