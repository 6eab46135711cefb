"""Finds the schema of the tables at start, so that statements can name it.

A session may change its search path at any time (a schema for each tenant, ``USE`` on MariaDB), and
a job that is enqueued in it must be inserted into the tables of the queue.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select, text

from ...errors import ConfigError

#: Selects the schema in which a table is found, else the one in which it would be created.
_FOUND = """
SELECT coalesce(
    (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass(:name)),
    current_schema()
)
"""

_IS_DATABASE = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = :name"


def schema_on_postgresql(connection: Connection, table: str, wanted: str | None) -> str:
    """Return *wanted*, else the schema in which *table* is found. Raises ConfigError."""
    if wanted is not None:
        there = select(func.to_regnamespace(f'"{wanted}"').is_not(None))
        return _present(wanted, connection.execute(there).scalar())
    found: str | None = connection.execute(text(_FOUND), {"name": f'"{table}"'}).scalar()
    if found is None:
        raise ConfigError(
            "asyncjob.backend = sql: expected a schema to make the tables in, got a search_path "
            "that names no existing one; set asyncjob.schema"
        )
    return found


def database_on_mariadb(connection: Connection, wanted: str | None) -> str:
    """Return *wanted*, else the database of the URL. Raises ConfigError."""
    if wanted is not None:
        return _present(wanted, connection.execute(text(_IS_DATABASE), {"name": wanted}).scalar())
    found: str | None = connection.execute(select(func.database())).scalar()
    if found is None:
        raise ConfigError(
            "asyncjob.backend = sql: expected a database to make the tables in, got a URL that "
            "names none; name one, or set asyncjob.schema"
        )
    return found


def refuse_schema(wanted: str | None) -> None:
    """Raise ConfigError for a schema, on a database without schemas."""
    if wanted is not None:
        raise ConfigError(
            f"asyncjob.schema: expected none, as SQLite has no schemas, got {wanted!r}; leave the "
            "option out"
        )


def _present(wanted: str, is_there: object) -> str:
    if not is_there:
        raise ConfigError(
            f"asyncjob.schema: expected a schema that exists, got {wanted!r}; create it, or leave "
            "the option out, and the tables are where the connection finds them"
        )
    return wanted
