"""Stores new jobs: a single one by its values, many by one parameter that holds all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Double, bindparam, column, func, insert, select

from .dialect import Dialect
from .sizes import why_too_large
from .statements import Statement
from .tables import Clock, Tables

#: What the client gives; ``delay`` is the seconds of a ``run_after`` that is a timedelta.
GIVEN = (
    "uid", "state", "rank", "queue_name", "budget", "name", "payload", "signature", "options",
    "context", "task_name", "enqueued_by", "due_at", "delay",
)  # fmt: skip

#: What it gives for a job with a key too.
KEYS = ("policy", "limit_key", "blocked_by")
WITH_KEYS = (*GIVEN, *KEYS)

#: What differs between jobs that were enqueued together. A column of which all values of many rows
#: are the same is given once.
OWN = ("uid", "payload", "signature", *KEYS)

#: The most rows of that parameter, and its most characters: a request has them in memory twice.
AT_ONCE, LONGEST_TEXT = 1_000, 1_000_000

# Not in ASCII: MariaDB does not put the two halves of an escaped character together.
_dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class Statements(NamedTuple):
    """What inserts rows with these columns."""

    names: Sequence[str]
    one: Statement
    many: Statement | None  #: many at once; None: they are inserted one by one
    alike: Statement | None  #: many that differ in OWN alone


class Insertion:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock) -> None:
        self._jobs = tables.jobs
        self._dialect = dialect
        self._clock = clock
        self._plain = self._statements(tables, GIVEN)
        self._with_keys = self._statements(tables, WITH_KEYS)

    def _statements(self, tables: Tables, names: Sequence[str]) -> Statements:
        types = {name: _type_of(tables, name) for name in names}
        given = {name: bindparam(name, type_=kind) for name, kind in types.items()}
        one = self._dialect.compiled(
            lambda: insert(self._jobs).values(self._values(given)).inline()
        )
        many = self._from_rows(names, {"rows": names}, types)
        own = [name for name in names if name in OWN]
        common = [name for name in names if name not in OWN]
        alike = self._from_rows(names, {"common": common, "rows": own}, types)
        return Statements(names, one, many, alike)

    def _from_rows(
        self, names: Sequence[str], parts: Mapping[str, Sequence[str]], types: Mapping[str, Any]
    ) -> Statement | None:
        """Build what inserts rows of which each parameter holds these columns; see ``rows_in``."""
        given: dict[str, Any] = {}
        for parameter, of_part in parts.items():
            columns = [column(name, types[name]) for name in of_part]
            rows = self._dialect.rows_in(bindparam(parameter), columns, f"given_{parameter}")
            if rows is None:
                return None
            given |= {name: rows.c[name] for name in of_part}
        values = self._values(given)
        into = insert(self._jobs).from_select(list(values), select(*values.values()))
        return self._dialect.compiled(lambda: into)

    def _values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is inserted, by column. given: the same as the client gives it."""
        now = self._clock.clause
        due_at = func.coalesce(now + given["delay"], given["due_at"])
        values = {name: value for name, value in given.items() if name != "delay"}
        return {**values, "due_at": due_at, "enqueued_at": now}

    def store(self, rows: Sequence[Mapping[str, Any]], connection: Connection) -> None:
        """Store rows of jobs, which ``Rows.of_job`` has made."""
        statements = self._plain
        if any("limit_key" in row for row in rows):
            statements = self._with_keys
            rows = [{**dict.fromkeys(statements.names), **row} for row in rows]
        if statements.many is None or len(rows) == 1:
            statements.one.execute_all(connection, rows, **self._clock.moment())
            return
        for begin in range(0, len(rows), AT_ONCE):
            self._store_some(statements, rows[begin : begin + AT_ONCE], connection)

    def _store_some(
        self, statements: Statements, rows: Sequence[Mapping[str, Any]], connection: Connection
    ) -> None:
        statement, parts = statements.many, {"rows": rows}
        if _are_alike(rows):
            own = [name for name in statements.names if name in OWN]
            common = {name: rows[0][name] for name in statements.names if name not in OWN}
            statement = statements.alike
            parts = {
                "common": [common],
                "rows": [{name: row[name] for name in own} for row in rows],
            }
        texts = {name: _dump(part) for name, part in parts.items()}
        is_too_large = why_too_large(texts.values(), self._dialect.most_bytes) is not None
        if statement is not None and len(texts["rows"]) <= LONGEST_TEXT and not is_too_large:
            statement.execute(connection, **texts, **self._clock.moment())
        else:
            half = len(rows) // 2
            self.store(rows[:half], connection)
            self.store(rows[half:], connection)


def _are_alike(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rows differ in OWN alone, as far as can be seen at a glance: those of jobs that were
    enqueued together have the same objects."""
    first = rows[0]
    common = [name for name in first if name not in OWN]
    return all(row[name] is first[name] for row in rows for name in common)


def _type_of(tables: Tables, name: str) -> Any:
    return Double() if name == "delay" else tables.jobs.c[name].type
