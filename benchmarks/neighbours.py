"""Measure what enqueues cost the other programs of one PostgreSQL server, in one run.

    python benchmarks/neighbours.py            three minutes
    python benchmarks/neighbours.py --quick    some seconds; says only that the harness works

pgbench inserts rows with 8 clients, each row its own commit. Beside it another process serves
requests at a fixed rate: requests that write a row, or that write a row and enqueue a job. Every
round measures each once, in turn; ratios are taken within a round. Exits with 0 whether the aim is
met or missed, unless something fails.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import transaction
import zope.sqlalchemy
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.orm import scoped_session, sessionmaker

from figures import Aim, Row, Spread, print_table
from jobs import tick
from memory import in_turn
from tgext.asyncjob import JobQueue

CLIENTS, THREADS = 8, 4
AIM = Aim(0.95, "at least 0.95", at_least=True)
KINDS = {"write": "requests that write", "enqueue": "requests that write and enqueue"}


def serve(url: str, schema: str, kind: str, a_second: float) -> None:
    """Serve requests at a rate until stdin ends; print how many there were in a second."""
    engine = create_engine(url)
    session = scoped_session(sessionmaker(bind=engine))
    zope.sqlalchemy.register(session)
    stop, served = threading.Event(), [0] * THREADS
    with JobQueue("sql", session=session, schema=schema, threads=0) as queue, queue.as_current():

        def requests(number: int) -> None:
            due = time.monotonic()
            while not stop.is_set():
                with queue.in_transaction():
                    session.execute(text(f"INSERT INTO {schema}.rows (n) VALUES (1)"))
                    if kind == "enqueue":
                        queue.perform(tick)
                    zope.sqlalchemy.mark_changed(session())
                    transaction.commit()
                session.remove()
                served[number] += 1
                due = max(due + THREADS / a_second, time.monotonic() - 1)
                stop.wait(max(due - time.monotonic(), 0))

        threads = [threading.Thread(target=requests, args=(each,)) for each in range(THREADS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()
    print(sum(served) / (time.monotonic() - began))


@contextlib.contextmanager
def schema_on(url: URL) -> Iterator[str]:
    """A schema of this run's own, with two tables; dropped at the end."""
    name, engine = f"asyncjob_benchmark_{uuid.uuid4().hex[:8]}", create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
        for table in ("rows", "others"):
            connection.execute(text(f"CREATE TABLE {name}.{table} (id bigserial, n integer)"))
    try:
        yield name
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        engine.dispose()


class Field:
    """One server, a schema of it, and how long and how often it is asked."""

    def __init__(self, url: URL, schema: str, seconds: int, a_second: float) -> None:
        self._url, self._schema, self._seconds, self._a_second = url, schema, seconds, a_second
        self.served: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def commit_seconds(self, kind: str) -> float:
        """Seconds a commit of the others, beside requests of a kind."""
        own = [sys.executable, __file__, "--serve", kind, "--schema", self._schema]
        own += ["--postgresql", self._url.render_as_string(hide_password=False)]
        own += ["--rate", str(self._a_second)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(own, **pipes) as requests:  # type: ignore[call-overload]
            time.sleep(2)  # it imports and connects
            rate = self._others()
            served, _ = requests.communicate("")
        self.served[kind].append(float(served))
        return 1 / rate

    def _others(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder, "others.sql")
            script.write_text(f"INSERT INTO {self._schema}.others (n) VALUES (1);\n")
            command = ["pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-T", str(self._seconds)]
            command += ["-f", str(script), "-h", self._url.host or "", "-p", str(self._url.port)]
            command += ["-U", self._url.username or "", self._url.database or ""]
            environ = {**os.environ, "PGPASSWORD": self._url.password or ""}
            done = subprocess.run(
                command, env=environ, capture_output=True, text=True, check=True
            ).stdout
        found = re.search(r"tps = ([\d.]+)", done)
        if found is None:
            raise RuntimeError(f"expected a line 'tps = ...' of pgbench, got:\n{done}")
        return float(found.group(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--postgresql", default="postgresql+psycopg://postgres@127.0.0.1:5432/test")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--schema", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve:
        serve(told.postgresql, told.schema, told.serve, told.rate)
        return
    seconds, rounds = (2, 1) if told.quick else (12, 5)
    url = make_url(told.postgresql)
    with schema_on(url) as schema:
        field = Field(url, schema, seconds, told.rate)
        asked = [lambda kind=kind: field.commit_seconds(kind) for kind in KINDS]
        figures = in_turn(rounds, asked)
    rows = []
    for (kind, name), found in zip(KINDS.items(), figures, strict=True):
        ratio = Spread.of([base / own for base, own in zip(figures[0], found, strict=True)])
        served = Spread.of(field.served[kind]).median
        note = f"{1 / Spread.of(found).median:9,.0f} commits/s, {served:,.0f} requests/s  "
        rows.append(Row(name, ratio, note + (AIM.verdict(ratio.median) if rows else "")))
    title = f"commits of {CLIENTS} other clients, PostgreSQL"
    print_table(f"{title}: speed against that beside {KINDS['write']}", rows, 2)


if __name__ == "__main__":
    main()
