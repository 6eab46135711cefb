"""Where durable queues are measured: processes, each with a contender, and places for its tables.

A place is a SQLite file in a temporary folder, a PostgreSQL schema or a MariaDB database of its
own; all go when the run ends, however it ends.
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import create_engine, make_url

from children import Child

PROGRAM = Path(__file__).resolve().parent / "sqlchild.py"
SCHEMA = "asyncjob_benchmark_{}"


class Stand(Child):
    """A running sqlchild.py under some environment's Python; answers may be lists."""

    def __init__(self, python: str) -> None:
        super().__init__(python, PROGRAM)

    def ask(self, measure: str, **parameters: Any) -> Any:
        """Give the answer of one measurement. Raises ChildFailed when there is none."""
        return self._answer(measure, parameters)


class Places:
    """Fresh places, one after the other; a context manager that removes them."""

    def __init__(self, postgresql: str, mariadb: str | None = None) -> None:
        self._postgresql = make_url(postgresql)
        self._mariadb = None if mariadb is None else make_url(mariadb)
        self._made = 0
        self._schemas: list[str] = []
        self._databases: list[str] = []

    @property
    def _dsn(self) -> str:
        url = self._postgresql.set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    def server(self) -> tuple[str, dict[str, str]]:
        """Give the PostgreSQL server's version and what of its settings costs or risks a commit.

        Raises psycopg.OperationalError when there is none.
        """
        with psycopg.connect(self._dsn, connect_timeout=5) as connection:
            asked = ("synchronous_commit", "fsync", "full_page_writes")
            found = {name: connection.execute(f"show {name}").fetchone() for name in asked}
            return str(connection.info.server_version // 10000), {
                name: str(row and row[0]) for name, row in found.items()
            }

    def new(self, database: str) -> str:
        """Give the SQLAlchemy URL of a new place in *database*."""
        self._made += 1
        if database == "sqlite":
            return f"sqlite:///{self.folder}/{self._made}.db"
        schema = SCHEMA.format(self._made)
        if database == "mariadb":
            self._on_mariadb(f"drop database if exists {schema}", f"create database {schema}")
            self._databases.append(schema)
            assert self._mariadb is not None
            return self._mariadb.set(database=schema).render_as_string(hide_password=False)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            self._drop(connection, schema)
            connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        self._schemas.append(schema)
        url = self._postgresql.set(drivername="postgresql+psycopg")
        url = url.update_query_dict({"options": f"-csearch_path={schema}"})
        return url.render_as_string(hide_password=False)

    def pipe(self) -> str:
        """Give the path of a new named pipe."""
        self._made += 1
        path = f"{self.folder}/{self._made}.pipe"
        os.mkfifo(path)
        return path

    def clear(self) -> None:
        """Drop what the places hold; their contenders are closed."""
        if self._schemas:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                while self._schemas:
                    self._drop(connection, self._schemas[-1])
                    self._schemas.pop()
        while self._databases:
            self._on_mariadb(f"drop database if exists {self._databases[-1]}")
            self._databases.pop()
        for path in Path(self.folder).iterdir():
            path.unlink()

    def _on_mariadb(self, *statements: str) -> None:
        assert self._mariadb is not None
        engine = create_engine(self._mariadb)
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    @staticmethod
    def _drop(connection: Any, schema: str) -> None:
        connection.execute(
            sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema))
        )

    def __enter__(self) -> "Places":
        self._folder = tempfile.TemporaryDirectory(prefix="asyncjob-benchmark-")
        self.folder = self._folder.name
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(psycopg.Error):
            self.clear()
        self._folder.cleanup()


def sync_microseconds(folder: str, writes: int = 300) -> list[float]:
    """Microseconds of each of *writes* fdatasync calls after 4 KiB: what a commit cannot avoid."""
    found = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(writes):
            file.seek(0)
            file.write(os.urandom(4096))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append((time.perf_counter() - begun) * 1e6)
    return found
