"""The databases that tests run on: a SQLite file, and the servers on their standard ports."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from needs import need

#: Where each listens; the databases and users are those of a fresh Debian package. PyMySQL would
#: read all certificates of the machine for each connection; own_servers.py lets it.
SERVERS = {
    "postgresql": ("PostgreSQL", 5432, "postgresql+psycopg://postgres@127.0.0.1/test"),
    "mariadb": ("MariaDB", 3306, "mysql+pymysql://root@127.0.0.1/test?ssl_disabled=1"),
}


def url_of(kind: str, folder: Path) -> str:
    """Return the SQLAlchemy URL of a database of *kind*; needs its server."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/jobs.db"
    name, port, url = SERVERS[kind]
    need(_listens(port), f"{name} on 127.0.0.1:{port} (Debian: .ci/run installs and starts it)")
    return url


def begin_at_the_first_statement(engine: Engine) -> None:
    """Make SQLite's transactions whole, as SQLAlchemy's manual says: else sqlite3 begins at the
    first statement that writes, a SELECT before it holds no snapshot, and SAVEPOINT breaks."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
