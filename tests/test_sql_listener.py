"""A job that one process enqueues starts in another that is idle, because that one hears of it.

The rounds of the registry, which would find it too, are an hour apart here.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from databases import url_of
from tgext.asyncjob import JobQueue, TaskResultStatus
from tgext.asyncjob.backends.sql import SqlBackend

pytestmark = pytest.mark.slow

WORKER = """
import sys
from tgext.asyncjob import JobQueue
from tgext.asyncjob.worker import worker

assert worker.RESCUE_SECONDS < 10
worker.RESCUE_SECONDS = 3600
with JobQueue("sql", url=sys.argv[1], table_prefix=sys.argv[2], threads=2, secret="x") as queue:
    queue.start_worker()
    queue.result(queue.perform(len, "abc")).wait(10)
    print("idle", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def idle_worker(url: str, prefix: str) -> Iterator[None]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKER, url, prefix], **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "idle\n"
            yield
        finally:
            process.kill()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def place(request: Any, tmp_path: Path) -> Iterator[tuple[str, str]]:
    url, prefix = url_of(request.param, tmp_path), f"t{uuid.uuid4().hex[:8]}_"
    yield url, prefix
    engine = create_engine(url)
    SqlBackend(engine, prefix=prefix).tables.metadata.drop_all(engine)
    engine.dispose()


def test_a_job_of_one_process_starts_in_another_that_hears_of_it(place: tuple[str, str]) -> None:
    url, prefix = place
    with (
        JobQueue("sql", url=url, table_prefix=prefix, threads=0, secret="x") as queue,
        idle_worker(url, prefix),
    ):
        for number in range(5):
            result = queue.result(queue.perform(len, "x" * number))

            assert result.wait(10).status is TaskResultStatus.SUCCESSFUL


def test_a_round_of_the_registry_finds_what_nobody_heard_of(place: tuple[str, str]) -> None:
    url, prefix = place
    engine = create_engine(url)
    backend = SqlBackend(engine, prefix=prefix)
    backend.open(create_tables=True)
    try:
        backend._registry.register("w", None, 1, expendable=False)  # and nobody listens
        with JobQueue("sql", url=url, table_prefix=prefix, threads=0, secret="x") as queue:
            assert backend.claim("w", None, 1) == []
            queue.perform(len, "abc")
        wakeups = backend._wakeup._wakeups

        backend.rescue()

        assert backend._wakeup._wakeups > wakeups
    finally:
        backend.close()
        engine.dispose()
