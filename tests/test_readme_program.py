"""The program of README.txt, started as the README says: for several browsers, and to its end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from test_docs import ROOT, blocks_of
from test_servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

#: The longest that a page, a start or an end may take; what is right comes nowhere near it.
PATIENCE_SECONDS = 20.0


class Program:
    """``python report.py``, which serves at a free port."""

    def __init__(self, folder: Path) -> None:
        [block] = blocks_of(ROOT / "README.txt")
        self.port = free_port()
        (folder / "report.py").write_text(block.astext().replace("8080", str(self.port)))
        self._folder = folder
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "report.py"], cwd=self._folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            # where the tests run in the background it is ignored, and that is inherited
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError):
                self.connect().close()
                return
            time.sleep(0.05)
        raise AssertionError("it did not start")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)

    def ask(self, path: str, **form: str) -> tuple[int, str, str]:
        """Return the status, the address that was led to, and the page."""
        data = urllib.parse.urlencode(form).encode() if form else None
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            answer = urllib.request.urlopen(url, data, PATIENCE_SECONDS)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.url, answer.read().decode()

    def end(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code, and what it said on the way that is no request."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=PATIENCE_SECONDS)
        lines = [line for line in said.splitlines() if not re.search(r'"(GET|POST) /', line)]
        return self.process.returncode, "\n".join(lines)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    made.process.kill()
    made.process.communicate()


def test_program_answers_while_another_browser_keeps_connections_open(program: Program) -> None:
    with program.connect(), program.connect() as speaking:
        speaking.sendall(b"GET / HTTP/1.1\r\n")  # and no more

        _, url, page = program.ask("/start", days="10")

    assert "/job?uid=" in url
    assert "<asyncjob-progress" in page
    assert "The report" in page
    assert '<meta name="viewport" content="width=device-width">' in page


def test_job_of_before_a_restart_is_said_to_be_unknown(program: Program) -> None:
    _, url, _ = program.ask("/start", days="99")
    program.end()
    program.start()

    status, _, page = program.ask(url.partition(str(program.port))[2])

    assert status == 200
    assert "Not known any more" in page
    assert 'href="/"' in page


def test_control_c_ends_the_program_without_a_traceback(program: Program) -> None:
    program.ask("/")

    code, said = program.end()

    assert code == 0
    assert "Traceback" not in said


def test_control_c_while_a_job_runs_says_what_becomes_of_it(program: Program) -> None:
    program.ask("/start", days="31")
    until = time.monotonic() + PATIENCE_SECONDS

    code, said = program.end()

    assert time.monotonic() < until
    assert code == 0
    assert "Traceback" not in said
    assert "lost" in said
