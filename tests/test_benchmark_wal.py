"""What benchmarks/walserver.py says that a piece of work has written to the log."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psycopg
import pytest

from benchmark_modules import benchmark_module
from own_servers import CLIENT_OPTIONS

pytestmark = pytest.mark.slow

#: More than a record of ours comes to, fewer than a page has.
FEW_BYTES = 1_000


@pytest.fixture(scope="module")
def walserver() -> ModuleType:
    return benchmark_module("walserver")


@pytest.fixture(scope="module")
def server(walserver: ModuleType) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, walserver.wal_server() as server:
        patch.delenv(CLIENT_OPTIONS, raising=False)  # its clients ask for nothing, as users' do
        yield server


@pytest.fixture
def connection(server: Any) -> Iterator[Any]:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE numbers (number integer)")
        connection.execute("INSERT INTO numbers VALUES (1)")
        yield connection
        connection.execute("DROP TABLE numbers")


def test_transactions_that_wrote_are_counted_and_no_others(server: Any, connection: Any):
    def act() -> None:
        for _ in range(3):
            connection.execute("INSERT INTO numbers VALUES (2)")
        for _ in range(5):
            connection.execute("SELECT * FROM numbers")

    assert server.written(act).commits == 3


def test_transactions_that_only_notified_are_counted_apart(server: Any, connection: Any):
    def act() -> None:
        for _ in range(3):
            connection.execute("NOTIFY numbers")
        with connection.transaction():
            connection.execute("INSERT INTO numbers VALUES (2)")
            connection.execute("NOTIFY numbers")

    found = server.written(act)

    assert (found.commits, found.notifications) == (1, 3)


def test_a_transaction_that_wrote_only_in_a_savepoint_has_written(server: Any, connection: Any):
    def act() -> None:
        with connection.transaction(), connection.transaction():
            connection.execute("INSERT INTO numbers VALUES (2)")

    found = server.written(act)

    assert (found.commits, found.notifications) == (1, 0)


def test_a_commit_that_does_not_wait_for_the_disk_is_counted(server: Any, connection: Any):
    connection.execute("SET synchronous_commit = off")

    found = server.written(lambda: connection.execute("INSERT INTO numbers VALUES (2)"))

    assert found.commits == 1


def test_a_page_that_was_not_changed_since_the_checkpoint_is_counted_apart(
    server: Any, connection: Any
):
    found = server.written(lambda: connection.execute("INSERT INTO numbers VALUES (2)"))

    assert 0 < found.bytes < FEW_BYTES
    assert found.page_bytes > 0


def test_what_came_before_is_not_counted(server: Any, connection: Any):
    assert server.written(lambda: None).commits == 0


def test_commits_are_durable(connection: Any):
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)
