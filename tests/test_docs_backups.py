"""The backups of docs/deploy.rst, taken while jobs run: each is the state of one moment.

A job writes one row with its uid. So in every backup there is a row for each job that is SUCCESSFUL
and for no other, and what had not ended runs to its end in what was restored from it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import transaction
from sqlalchemy import create_engine, text

from databases import url_of
from needs import need
from test_docs_durable import PATIENCE_SECONDS, SHOWN, until
from tgext.asyncjob import JobQueue, asyncjob_running_uid, asyncjob_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

JOBS = 120


def keep() -> None:
    row = {"uid": asyncjob_running_uid()}
    asyncjob_session().execute(text("INSERT INTO kept VALUES (:uid)"), row)


def run_jobs_and(back_up: Any, url: str) -> list[str]:
    """Call *back_up* while jobs run; return the uids of all jobs."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (uid VARCHAR(80))"))
    engine.dispose()
    with JobQueue("sql", url=url, threads=2, lease=1) as queue:
        with queue.in_transaction():
            uids = [queue.perform(keep) for _ in range(JOBS)]
            transaction.commit()
        queue.start_worker()
        queue.result(uids[20]).wait(PATIENCE_SECONDS)
        back_up()
        for uid in uids:
            queue.result(uid).wait(PATIENCE_SECONDS)
    return uids


def assert_is_of_one_moment(url: str, uids: list[str]) -> None:
    """And that all jobs have run once when what waits in it has run."""
    engine = create_engine(url)
    with JobQueue("sql", url=url, threads=0, lease=1) as queue:
        done = {uid for uid in uids if queue.result(uid).status == "SUCCESSFUL"}
        assert done == set(rows(engine))
        assert done
        queue.run_pending()
        # What ran when the backup was made is given up after the lease.
        until(lambda: queue.backend.prune() or (queue.run_pending(), len(rows(engine)) >= JOBS)[1])
        assert sorted(rows(engine)) == sorted(uids)
    engine.dispose()


def rows(engine: Any) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(text("SELECT uid FROM kept")).scalars())


def shell(command: str, folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_backups_of_sqlite_while_jobs_run_are_each_of_one_moment(tmp_path: Path) -> None:
    command = SHOWN["backup"].replace("python", sys.executable, 1)
    names = ["backup.db", "second.db", "third.db"]

    def back_up() -> None:
        for name in names:
            shell(command.replace("backup.db", name), tmp_path)

    uids = run_jobs_and(back_up, f"sqlite:///{tmp_path}/app.db?timeout=30")

    for name in names:
        assert_is_of_one_moment(f"sqlite:///{tmp_path}/{name}?timeout=30", uids)


@contextmanager
def two_databases(kind: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Databases of one server, dropped in the end; gives a URL with a place for their names."""
    url = url_of(kind, folder)
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    names = [f"docs_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    with admin.connect() as connection:
        for name in names:
            connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield url.replace("/test", "/{}"), names[0], names[1]
    finally:
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        with admin.connect() as connection:
            for name in names:
                connection.execute(text(f"DROP DATABASE {name}{force}"))
        admin.dispose()


PROGRAMS = {
    "postgresql": ("pg_dump", "psql -q", "-h 127.0.0.1 -U postgres"),
    "mariadb": ("mariadb-dump", "mariadb", "-h 127.0.0.1 -u root --skip-ssl"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_dump_of_a_server_while_jobs_run_is_of_one_moment(tmp_path: Path, kind: str) -> None:
    dump, restore, address = PROGRAMS[kind]
    need(shutil.which(dump), dump)
    command = SHOWN[dump].replace(dump, f"{dump} {address}", 1)
    with two_databases(kind, tmp_path) as (url, name, restored):
        uids = run_jobs_and(
            lambda: shell(command.replace("myapp", name), tmp_path), url.format(name)
        )
        shell(f"{restore} {address} {restored} < backup.sql", tmp_path)

        assert_is_of_one_moment(url.format(restored), uids)
