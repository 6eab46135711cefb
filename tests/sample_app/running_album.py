"""What the tests of the sample application share besides fixtures."""

import importlib.util
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked_python import OF_SERVERS, ForkedPython
from needs import need

SAMPLE_APP = Path(__file__).resolve().parents[2] / "sample_app"
SECONDS = 20  #: the longest wait for anything; a miss is a failure


#: What gunicorn and the album import.
OF_ALBUM = (
    "gunicorn.app.pasterapp gunicorn.workers.sync jinja2 kajiki mako.template beaker.session"
    f" photoalbum.config.application photoalbum.controllers.root {OF_SERVERS}"
)

#: Has each process of the server stop at a pipe, if there is one, when a job is all but done.
AT_GATE = """
from pathlib import Path
from photoalbum.lib import darkroom

GATE = Path(__file__).with_name("gate")

def post_worker_init(worker):
    lay_out = darkroom.contact_sheet

    def held(*args):
        if GATE.exists():
            GATE.read_bytes()
        return lay_out(*args)

    darkroom.contact_sheet = held
"""


@dataclass(frozen=True)
class Album:
    """A running photo album and the means that tests need."""

    wsgi: Any
    web: Any  #: a webtest.TestApp
    queue: Any
    media_dir: Path

    def files(self, folder: str) -> list[Path]:
        return sorted((self.media_dir / folder).iterdir())


class Gate:
    """Hold the work of a job: each piece waits until the test lets it pass."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self._arrivals = threading.Semaphore(0)

    def let_pass(self, number: int = 1) -> None:
        self._permits.release(number)

    def wait_for_arrival(self) -> None:
        """Wait until one more piece of work stands at the gate."""
        assert self._arrivals.acquire(timeout=SECONDS), "the job never came to the gate"

    def before(self, work: Any) -> Any:
        """Give *work*, behind the gate."""

        def held(*args: Any) -> Any:
            self._arrivals.release()
            assert self._permits.acquire(timeout=SECONDS), "the test never opened the gate"
            return work(*args)

        return held


class Server:
    """development.ini as it stands, served by processes of gunicorn on data of its own.

    Between ``hold`` and ``let_pass`` a job that develops pictures stops before its contact sheet.
    """

    def __init__(self, folder: Path, workers: int = 2) -> None:
        need(importlib.util.find_spec("gunicorn"), "gunicorn (pip install gunicorn)")
        self.folder = folder
        self.database = folder / "album.db"
        self.log = folder / "server.log"
        self.address = ""
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = iter(range(1_000_000))
        self.gate = folder / "gate"
        (folder / "gunicorn_conf.py").write_text(AT_GATE)
        (folder / "album.ini").write_text(
            "[app:main]\n"
            f"use = config:{SAMPLE_APP / 'development.ini'}\n"
            f"photoalbum.media_dir = {folder / 'media'}\n"
            f"sqlalchemy.url = sqlite:///{self.database}?timeout=30\n"
        )

    def start(self) -> None:
        """Start it, and return when it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            bind = f"127.0.0.1:{probe.getsockname()[1]}"
        self.address = f"http://{bind}"
        with self.log.open("ab") as log:
            self._process = ForkedPython(
                [
                    sys.executable, "-m", "gunicorn", "--paste", str(self.folder / "album.ini"),
                    "--workers", str(self._workers), "--bind", bind, "--access-logfile", "-",
                    "--config", str(self.folder / "gunicorn_conf.py"),
                    "--access-logformat", "process %(p)s answers %({x-number}i)s with %(s)s",
                ],
                cwd=self.folder, env={**os.environ, "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, imports=OF_ALBUM,
            )  # fmt: skip
        self.until(self._answers, "the server answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        with suppress(OSError):
            return bool(self.get("/pictures"))
        return False

    def kill(self) -> None:
        """End all its processes at once, as a power cut does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(SECONDS)
            self._process = None

    def hold(self) -> None:
        """Let the next jobs stop before their contact sheet."""
        os.mkfifo(self.gate)

    def let_pass(self) -> None:
        """Wait until a job has stopped there, and let it and later ones go on."""
        self.until(self._opened, "a job has stopped")
        self.gate.unlink()

    def _opened(self) -> bool:
        try:
            os.close(os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # ENXIO: nobody reads it
            return False
        return True

    # -- as a browser asks

    def get(self, path: str) -> bytes:
        """Give the body of a page."""
        return self._open(urllib.request.Request(self.address + path))[0]

    def post(self, path: str, body: bytes = b"", content_type: str = "") -> str:
        """Send a form; gives the address that the answer leads to."""
        form = content_type or "application/x-www-form-urlencoded"
        return self._open(
            urllib.request.Request(self.address + path, body, {"Content-Type": form})
        )[1]

    def start_job(self, path: str, *pictures: bytes) -> str:
        """Send the form that starts a job, with picture files if it wants them; gives its uid."""
        body = b"".join(
            b"--a-boundary\r\n"
            b'Content-Disposition: form-data; name="pictures"; filename="a_picture.jpg"\r\n'
            b"Content-Type: image/jpeg\r\n\r\n" + picture + b"\r\n"
            for picture in pictures
        )
        multipart = "multipart/form-data; boundary=a-boundary" if pictures else ""
        page = self.post(path, body + b"--a-boundary--\r\n" if pictures else b"", multipart)
        assert "/job/" in page, page
        return urllib.parse.unquote(page.rpartition("/job/")[2])

    def press_cancel(self, uid: str) -> None:
        """Press the button of a job's bar."""
        page = self.get(f"/job/{uid}").decode()
        form = re.search('<form class="asyncjob-cancel".*?</form>', page, re.DOTALL)
        assert form is not None, page
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[0]))
        self.post("/asyncjob/cancel", urllib.parse.urlencode(fields).encode())

    def numbered_status(self, uid: str) -> tuple[str, Any]:
        """Ask how a job goes; gives the number of the question, and the answer."""
        number = f"question-{next(self._numbers)}"
        path = f"{self.address}/status?uid={urllib.parse.quote(uid)}"
        return number, json.loads(
            self._open(urllib.request.Request(path, headers={"X-Number": number}))[0]
        )

    def status(self, uid: str) -> Any:
        """Ask how a job goes."""
        return self.numbered_status(uid)[1]

    def _open(self, request: urllib.request.Request) -> tuple[bytes, str]:
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.read(), answer.url
        except urllib.error.HTTPError as error:
            with error:
                said = self.log.read_text()[-3000:]
            raise AssertionError(f"{request.full_url}: {error}; the log:\n{said}") from None

    # -- as an operator looks

    def answerer_of(self, number: str) -> int:
        """The process that answered the question of that number."""
        found = self.until(
            lambda: re.search(rf"process <?(\d+)>? answers {number} ", self.log.read_text()),
            f"the log has {number}",
        )
        return int(found[1])

    def runner_of(self, uid: str) -> int | None:
        """The process that runs a job, None in the moment that nobody does."""
        worker_id = self.row("SELECT worker_id FROM asyncjob_jobs WHERE uid = ?", uid)
        beside = Path(f"{self.database}-asyncjob")
        wanted = "SELECT pid FROM asyncjob_workers WHERE worker_id = ?"
        pid: int | None = self.row(wanted, worker_id, file=beside)
        return pid

    def row(self, statement: str, *values: Any, file: Path | None = None) -> Any:
        """The one value that a query finds in the database, None if it finds nothing."""
        with closing(sqlite3.connect(file or self.database, timeout=SECONDS)) as connection:
            found = connection.execute(statement, values).fetchone()
        return None if found is None else found[0]

    def until(self, condition: Any, what: str, seconds: float = 3 * SECONDS) -> Any:
        """Return what *condition* returns once that is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.05)  # another process tells nobody
        raise AssertionError(f"waited in vain until {what}:\n{self.log.read_text()[-3000:]}")
