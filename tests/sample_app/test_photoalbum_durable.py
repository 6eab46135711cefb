"""development.ini for real: jobs in the SQLite file, and two processes that serve.

The server is gunicorn's, with its own database; who answered, and who runs a job, is read where an
operator would: in the log, and in the tables.
"""

import os
import signal
import threading
import time
from io import BytesIO

import pytest
from browsing import bar_value, wait_for_state, wait_until
from PIL import Image
from running_album import SECONDS, Server

pytestmark = [
    pytest.mark.slow,
    # urllib3 leaves the closing of its sockets to the driver to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

#: How soon a form must be answered, whatever runs in the background.
AT_ONCE_SECONDS = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("album"))
    try:
        made.start()
        yield made
    finally:
        made.kill()


def picture(size):
    """Make a JPEG file of that size."""
    stream = BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


def value_of(server, uid):
    """How far a running job is; -1 if it does not run, or has not said anything."""
    status = server.status(uid)
    return status["progress"]["value"] if status["status"] == "RUNNING" else -1


def wait_for_end(server, uid):
    final = ("SUCCESSFUL", "FAILED", "CANCELLED")
    server.until(lambda: server.status(uid)["status"] in final, "the job has ended")
    return server.status(uid)["status"]


@pytest.fixture(scope="class")
def oil_job(server):
    """The longest job of the album: a whole canvas in oil. It is cancelled at the end."""
    wait_for_end(server, server.start_job("/upload", picture((3300, 3300))))
    uid = server.start_job("/oil")
    server.until(lambda: value_of(server, uid) > 0, "the bar moves")
    yield uid
    server.press_cancel(uid)
    assert wait_for_end(server, uid) == "CANCELLED"


class TestWhileTheLongestJobRuns:
    def test_forms_that_write_are_answered_at_once(self, server, oil_job):
        small = picture((64, 48))
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            server.start_job("/upload", small)
            seconds.append(time.monotonic() - began)
            before = value_of(server, oil_job)
            server.until(lambda before=before: value_of(server, oil_job) > before, "it goes on")

        assert max(seconds) < AT_ONCE_SECONDS
        assert server.status(oil_job)["status"] == "RUNNING"

    def test_bar_moves_whichever_process_is_asked(self, server, oil_job):
        asked = []

        def ask():
            for _ in range(5):
                asked.append(server.numbered_status(oil_job))
                time.sleep(0.05)

        def ask_two_at_a_time():  # while one process answers, the other one is asked
            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(3 * SECONDS)

        def values_by_process():
            values = {}
            for number, status in asked:
                process = server.answerer_of(number)
                values.setdefault(process, set()).add(status["progress"]["value"])
            return values

        def each_has_seen_it_move():
            ask_two_at_a_time()
            values = values_by_process()
            return len(values) == 2 and min(map(len, values.values())) >= 3

        server.until(each_has_seen_it_move, "both processes have answered, with three values")


def crashes_of(server, uid):
    return server.row(
        "SELECT count(*) FROM asyncjob_errors WHERE uid = ? AND exception_class_path LIKE ?",
        uid,
        "%WorkerCrashed",
    )


def sheets(server):
    return server.row("SELECT count(*) FROM contact_sheet")


def test_job_whose_process_is_killed_goes_on_in_the_other_one_under_the_reader_s_eyes(
    server, chromium
):
    before = sheets(server)
    server.hold()
    uid = server.start_job("/upload", *[picture((640, 480))] * 3)
    chromium.get(f"{server.address}/job/{uid}")
    wait_for_state(chromium, "running")
    wait_until(chromium, lambda _: bar_value(chromium) >= 2)
    killed = server.runner_of(uid)

    os.kill(killed, signal.SIGKILL)

    server.until(
        lambda: server.runner_of(uid) not in (None, killed),
        "another process runs it",
        seconds=SECONDS,
    )
    wait_until(chromium, lambda _: bar_value(chromium) >= 0)
    server.let_pass()
    wait_for_state(chromium, "done")
    chromium.get("about:blank")
    assert crashes_of(server, uid) == 1
    assert sheets(server) == before + 1
    assert server.row("SELECT count(*) FROM picture WHERE developed IS NULL") == 0


def test_job_goes_on_where_the_whole_server_was_killed_and_started_again(server):
    before = sheets(server)
    server.hold()
    uid = server.start_job("/upload", *[picture((640, 480))] * 3)
    server.until(lambda: value_of(server, uid) >= 3, "the bar moves")

    server.kill()
    server.gate.unlink()
    server.start()

    assert wait_for_end(server, uid) == "SUCCESSFUL"
    assert crashes_of(server, uid) == 1
    assert sheets(server) == before + 1
