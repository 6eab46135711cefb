"""The programs of looppool.rst, run as they stand there; and what they report to.

Addresses are the only thing that is changed: those of servers that the test has on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import gzip
import http.server
import os
import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from statsd import StatsClient
from tornado import ioloop

import looppool_workers as workers
from looppool_workers import PATIENCE_SECONDS
from test_docs import blocks_of
from tgext.asyncjob.looppool import Pool, task_done
from tgext.asyncjob.looppool.utility import ResourceReporter

PAGE = Path(__file__).resolve().parent.parent / "docs" / "looppool.rst"


def program_with(text: str) -> str:
    [program] = [block.astext() for block in blocks_of(PAGE) if text in block.astext()]
    return program


def run_program(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "program.py"
    path.write_text(program)
    return subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_SECONDS,
        check=False,
    )


class Server(http.server.ThreadingHTTPServer):
    """Answers every request, and keeps what was posted."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.server.posted.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


class Statsd:
    """A statsd server, as far as it takes what it is sent."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(PATIENCE_SECONDS)
        self.port = self.socket.getsockname()[1]

    def gauges(self) -> dict[str, float]:
        """Wait for the next report."""
        lines = self.socket.recv(65536).decode().splitlines()
        return {
            name: float(value)
            for name, value in (re.fullmatch(r"(.+):(.+)\|g", line).groups() for line in lines)
        }


@pytest.fixture
def statsd() -> Iterator[Statsd]:
    made = Statsd()
    yield made
    made.socket.close()


# -- the programs


def test_first_program_prints_what_the_servers_are(tmp_path, server):
    program = program_with("class FetchWorker")
    urls = [f"{server.url}{number}" for number in range(4)]
    for before, url in zip(re.findall(r"'(https?://.+?)'", program), urls, strict=True):
        program = program.replace(before, url)

    done = run_program(tmp_path, program)

    assert (done.returncode, done.stderr) == (0, "")
    name = f"{Handler.server_version} {Handler.sys_version}"
    assert sorted(done.stdout.splitlines()) == [str((url, name)) for url in urls]


MAIN = """
def main():
    import os
    import psutil
    from tornado import ioloop

    loop = ioloop.IOLoop.current()
    pool = looppool.Pool(loop, pool_size = 2, worker_class = InstrumentatedWorker)

    @looppool.task_done
    def process_message(result, result_done):
        print(*result, psutil.Process(pool.pids[result[1]]).cmdline()[0])
        if result[0] == 'last':
            loop.stop()

    pool.process_message = process_message
    pool.start()
    pool.put_nowait('first', 0)
    pool.put_nowait('last', 0)
    loop.start()
    pool.stop()

if __name__ == '__main__':
    main()
"""


def test_second_program_reports_to_statsd_and_is_titled(tmp_path, statsd):
    program = program_with("class InstrumentatedWorker")
    program = program.replace("'localhost', 8125", f"'127.0.0.1', {statsd.port}")

    done = run_program(tmp_path, program + MAIN)
    reports = [statsd.gauges() for _ in range(2)]

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "first 0 python APP_NAME POOL_NAME pool worker",
        "last 0 python APP_NAME POOL_NAME pool worker",
    ]
    assert "Cannot configure Sentry handler" in done.stderr  # there is none at 'SENTRY_DSN'
    names = {name for report in reports for name in report}
    prefix = "APP_PREFIX.worker.instrumentated.process"
    assert {f"{prefix}.0.rss", f"{prefix}.1.rss"} <= names


WATCHED_MAIN = """
import asyncio

async def main():
    async with looppool.Pool(pool_size=1, worker_class=WatchedWorker) as pool:
        pool.put_nowait("a message that is too much")

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow
def test_sentry_hears_what_a_handler_raised(tmp_path, server):
    program = program_with("class WatchedWorker")
    address = server.url.replace("http://", "http://key@") + "1"
    program = program.replace("SENTRY_DSN", address)

    done = run_program(tmp_path, program + WATCHED_MAIN)

    assert done.returncode == 0, done.stderr
    events = []
    while not server.posted.empty():
        events.append(_text_of(server.posted.get()))
    assert any("LookupError" in event and "that is too much" in event for event in events)


def _text_of(body: bytes) -> str:
    return (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode()


# -- ResourceReporter


def test_reporter_tells_cpu_memory_and_backlog(statsd):
    async def program() -> list[dict[str, float]]:
        client = StatsClient("127.0.0.1", statsd.port, "app")
        reporter = ResourceReporter(asyncio.get_running_loop(), client, "web")
        reporter.sleep_time = 0.01
        reporter.start()
        reports = [await asyncio.to_thread(statsd.gauges) for _ in range(3)]
        reporter.stop()
        client.close()
        return reports

    first, _, third = asyncio.run(program())

    rss = psutil.Process().memory_info().rss / 1024
    loop = {f"app.web.ioloop.{name}" for name in ("handler", "callback", "timeout")}
    assert set(first) == {"app.web.maxrss", "app.web.rss"} | loop
    assert set(third) == set(first) | {"app.web.cpu", "app.web.ioloop.lag"}
    assert rss / 2 < third["app.web.rss"] <= third["app.web.maxrss"] * 1.01
    assert third["app.web.cpu"] >= 0
    assert third["app.web.ioloop.handler"] >= 1


def test_peak_memory_of_a_spawned_worker_is_its_own():
    async def program() -> int:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        pool = Pool(None, 1, workers.Peak, start_method="spawn")
        pool.process_message = task_done(lambda result, done: told.set_result(result))
        async with pool:
            pool.put_nowait("report")
            return await asyncio.wait_for(told, PATIENCE_SECONDS)

    ballast = b"x" * 300_000_000

    assert 1_000 < asyncio.run(program()) < len(ballast) // 1024


def test_reporter_takes_tornados_loop(statsd):
    async def program() -> dict[str, float]:
        client = StatsClient("127.0.0.1", statsd.port)
        reporter = ResourceReporter(ioloop.IOLoop.current(), client)
        reporter.start()
        reporter.start()
        report = await asyncio.to_thread(statsd.gauges)
        reporter.stop()
        reporter.stop()
        client.close()
        return report

    assert "process.rss" in asyncio.run(program())


def test_reporter_goes_on_when_statsd_cannot_be_reached(caplog):
    class Unreachable:
        calls = 0

        def pipeline(self) -> None:
            self.calls += 1
            if self.calls == 2:
                again.set()
            raise ConnectionRefusedError("nobody there")

    async def program() -> None:
        nonlocal again
        again = asyncio.Event()
        reporter = ResourceReporter(asyncio.get_running_loop(), Unreachable())
        reporter.sleep_time = 0
        reporter.start()
        await asyncio.wait_for(again.wait(), PATIENCE_SECONDS)
        reporter.stop()

    again: asyncio.Event
    asyncio.run(program())

    assert "statsd cannot be reached: nobody there" in caplog.text


def test_reporter_without_psutil_names_the_extra(tmp_path):
    (tmp_path / "psutil.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, "-c", "import tgext.asyncjob.looppool.utility"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "pip install 'tgext.asyncjob[looppool]>=1.0.dev0'" in done.stderr
