"""A PostgreSQL server of a run's own, whose log (WAL) is read record by record.

Needs PostgreSQL 15 or newer with pg_walinspect (Debian: postgresql). Its commits are durable. By
itself it writes next to nothing: no vacuum, and no checkpoint but those asked for here.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from own_servers import OwnPostgreSql

SETTINGS = {
    "fsync": "on", "autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "8GB",
}  # fmt: skip

#: Between two places of the log: what Written says.
WRITTEN = """
    SELECT coalesce(sum(record_length - fpi_length), 0)::bigint,
        coalesce(sum(fpi_length), 0)::bigint,
        count(*) FILTER (WHERE is_commit AND NOT is_alone),
        count(*) FILTER (WHERE is_commit AND is_alone)
    FROM (
        SELECT record_length, fpi_length,
            resource_manager = 'Transaction' AND record_type = 'COMMIT' AS is_commit,
            count(*) OVER (PARTITION BY xid::text) = 1
                AND description NOT LIKE '%%subxacts%%' AS is_alone
        FROM pg_get_wal_records_info(%s, %s)
    ) records"""


class Written(NamedTuple):
    """What the log grew by; a transaction that only reads leaves nothing in it."""

    bytes: int  #: of the records without the full pages in them
    page_bytes: int  #: of full pages: of each that is changed first after a checkpoint
    commits: int  #: of transactions that wrote rows
    notifications: int  #: commits of transactions that only notified: they do not wait for the disk


class WalServer(OwnPostgreSql):
    """The server; *written* is for one caller at a time, as all that is written is counted."""

    def _serves(self) -> list[str]:
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        return [*super()._serves(), *options]  # the last of two that are alike is obeyed

    @property
    def dsn(self) -> str:
        return self.url.replace("+psycopg", "")

    def written(self, act: Callable[[], object]) -> Written:
        """Call *act* just after a checkpoint, and return what was written until it returned."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
            connection.execute("CHECKPOINT")
            since = _end(connection)
            act()
            until = _end(connection)
            if since == until:
                return Written(0, 0, 0, 0)
            # Only what is on disk can be read, and some commits did not wait for it: this one does.
            connection.execute("SELECT pg_logical_emit_message(true, 'benchmark', '')")
            row = connection.execute(WRITTEN, (since, until)).fetchone()
            assert row is not None
            return Written(*row)


def _end(connection: "psycopg.Connection[tuple[str]]") -> str:
    row = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    assert row is not None
    return row[0]


@contextmanager
def wal_server() -> Iterator[WalServer]:
    """Run the server for a block."""
    server = WalServer()
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.remove()
