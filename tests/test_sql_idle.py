"""An idle worker costs next to nothing: counted by the server, and by the kernel.

Twelve seconds in the ordinary run, a minute with LONG=1 in the environment. What is counted
begins once the worker has settled down: it looks more often while something happens. The workers
of the three databases are idle at the same time: of each, what counts is its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from own_servers import OwnServer, own_server
from tgext.asyncjob.backends.sql.listener import LATELY_SECONDS

pytestmark = pytest.mark.slow

SECONDS = 60.0 if os.environ.get("LONG") else 12.0

#: More than the backing off of whatever was closer at the start takes.
SETTLING_SECONDS = 2.0 + LATELY_SECONDS

#: Each minute, at a moment of chance, old rows are removed and what has ended is counted, which
#: takes some 20 statements each: in a long run only. In a short one a round and a heartbeat more
#: or less count for more.
SLACK = 45 if os.environ.get("LONG") else 2
PRUNE_SECONDS = 60.0 if os.environ.get("LONG") else 3600.0

#: Of a core.
SHARE = 0.01

WORKER = """
import sys, time
from sqlalchemy import Engine, event

sent = 0

@event.listens_for(Engine, "connect")
def connect(connection, _record):
    if hasattr(connection, "set_trace_callback"):
        connection.set_trace_callback(lambda statement: count(connection, statement))

def count(connection, statement):
    global sent
    if statement == "PRAGMA data_version":
        counting.append(connection)  # no query: it looks at a number in shared memory
    else:
        sent += 1

counting = []

from tgext.asyncjob import JobQueue
from tgext.asyncjob.worker import worker

worker.PRUNE_SECONDS = float(sys.argv[2])

with JobQueue("sql", url=sys.argv[1], threads=4, secret="swordfish") as queue:
    queue.start_worker()
    queue.result(queue.perform(len, "abc")).wait(10)
    print("ready", flush=True)
    for _ in sys.stdin:
        for connection in counting:  # counting costs more than what is counted
            connection.set_trace_callback(None)
        counting.clear()
        print(sent, flush=True)
"""


class IdleWorker:
    """A worker in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._answer() == "ready"

    def sent(self) -> int:
        """The statements that it has sent to SQLite."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._answer())

    def cpu_seconds(self) -> float:
        """What the kernel says of it."""
        said = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def idle_worker(url: str) -> Iterator[IdleWorker]:
    command = [sys.executable, "-c", WORKER, url, str(PRUNE_SECONDS)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield IdleWorker(process)
        finally:
            process.kill()


@dataclass(frozen=True)
class Idled:
    """What an idle worker cost. cpu_seconds: of a core. connections: to a server, at the end."""

    seconds: float
    queries: int
    cpu_seconds: float
    connections: int = 0


def measure(
    worker: IdleWorker, sent: Callable[[], int], held: Callable[[], int] = lambda: 0
) -> Idled:
    """Count queries and the seconds of a core while nothing happens."""
    sent()
    time.sleep(SETTLING_SECONDS)
    queries, cpu, began = sent(), worker.cpu_seconds(), time.monotonic()
    time.sleep(SECONDS)
    queries, cpu = sent() - queries, worker.cpu_seconds() - cpu
    return Idled(time.monotonic() - began, queries, cpu, held())


def idle_on_sqlite(folder: Path) -> Idled:
    with idle_worker(f"sqlite:///{folder}/jobs.db") as worker:
        return measure(worker, worker.sent)


def idle_on_a_server(kind: str) -> Idled:
    with own_server(kind) as server:
        counts = COUNTS[kind]
        counts.begin(server)
        with idle_worker(server.url) as worker:
            return measure(
                worker, lambda: counts.statements(server), lambda: counts.connections(server)
            )


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Idled]]]:
    """What is measured; asked for its result, one raises what its thread did: a skip, too."""
    with ThreadPoolExecutor(3) as pool:
        yield {
            "sqlite": pool.submit(idle_on_sqlite, tmp_path_factory.mktemp("idle")),
            "postgresql": pool.submit(idle_on_a_server, "postgresql"),
            "mariadb": pool.submit(idle_on_a_server, "mariadb"),
        }


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_an_idle_worker_asks_little_and_uses_next_to_nothing_of_a_core(idle, kind):
    cost = idle[kind].result()

    sys.stdout.write(f"{cost}\n")
    assert cost.queries > 0  # or nothing was counted
    assert cost.queries <= cost.seconds + SLACK
    assert cost.cpu_seconds / cost.seconds < SHARE


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_idle_worker_holds_few_connections_to_a_server(idle, kind):
    cost = idle[kind].result()

    # to listen, or to poll; for heart and liveness; for claims, which four threads share
    assert 1 <= cost.connections <= 3


class PostgreSqlCounts:
    """From its log, in which every statement stands."""

    def begin(self, server: OwnServer) -> None:
        self._ask(server, "ALTER SYSTEM SET log_statement = 'all'")
        self._ask(server, "SELECT pg_reload_conf()")

    def statements(self, server: OwnServer) -> int:
        said = server.log.read_text()
        return said.count("LOG:  statement:") + said.count("LOG:  execute ")

    def connections(self, server: OwnServer) -> int:
        return self._ask(
            server,
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )

    def _ask(self, server: OwnServer, query: str) -> int:
        return _ask(server, query)


class MariaDbCounts:
    """From its own counter of what clients have asked, less what asking for that adds."""

    def begin(self, server: OwnServer) -> None:
        before = self._questions(server)
        self._per_look = self._questions(server) - before
        self._asked = 0

    def statements(self, server: OwnServer) -> int:
        self._asked += self._per_look
        return self._questions(server) - self._asked

    def connections(self, server: OwnServer) -> int:
        return _ask(
            server,
            "SELECT count(*) FROM information_schema.processlist "
            "WHERE id <> connection_id() AND user = 'root'",
        )

    def _questions(self, server: OwnServer) -> int:
        return _ask(
            server,
            "SELECT variable_value FROM information_schema.global_status "
            "WHERE variable_name = 'QUESTIONS'",
        )


COUNTS: dict[str, Any] = {"postgresql": PostgreSqlCounts(), "mariadb": MariaDbCounts()}


def _ask(server: OwnServer, query: str) -> int:
    engine = create_engine(server.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        asked = connection.execute(text(query))
        return int(asked.scalar() or 0) if asked.returns_rows else 0
