"""Progress elements in a real browser, on a page with a strict Content-Security-Policy.

The host is a WSGI application that counts what is asked of it. Jobs go on when the test says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from gettext import NullTranslations
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import parse_qs, urlencode

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from webtest.http import StopableWSGIServer

from chromium import SECONDS, BrowserPage, driver, set_script_enabled
from clocks import FakeClock
from test_servers import free_port
from tgext.asyncjob import JobQueue, asyncjob_set_progress
from tgext.asyncjob.job import FAILED, SUCCESSFUL, Outcome, TaskError
from tgext.asyncjob.web import Rights, WebApplication, as_visitor, asyncjob_progress
from webpages import Jobs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

__all__ = ["driver"]  # a fixture

#: What the page of the host allows: its own files, and nothing inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; require-trusted-types-for 'script'"
)


class Host:
    """An application with one page, ``/page?uid=..``, and the WebApplication at ``/asyncjob``."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.asked: list[tuple[float, list[str]]] = []  #: when, and for which uids
        self.policy = POLICY
        self.is_away = False
        self.translations: NullTranslations | None = None
        self._web = WebApplication(queue, rights=lambda _environ: Rights())

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path, query = environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"])
        if path.startswith("/asyncjob/"):
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/asyncjob", path[len("/asyncjob") :]
            if path == "/asyncjob/progress":
                self.asked.append((time.monotonic(), query["uid"]))
                if self.is_away:
                    start_response("502 Bad Gateway", [("Content-Type", "text/html")])
                    return [b"away"]
            return self._web(environ, start_response)
        text = f"<h1>{path}</h1>"
        if path == "/page":
            options = {"cancel": "cancel" in query, "then": query.get("then", [None])[0]}
            with self.queue.as_current(), as_visitor(Rights(), None, self.translations):
                for uid in query["uid"]:
                    text += str(asyncjob_progress(uid, f"Job {uid[-4:]}", **options))
        body = f'<!doctype html><html lang="en"><title>A page</title><body>{text}'.encode()
        headers = [("Content-Type", "text/html; charset=utf-8")]
        headers.append(("Content-Security-Policy", self.policy))
        start_response("200 OK", headers)
        return [body]


class Page(BrowserPage):
    """A page of the host in the browser."""

    def open(self, *uids: str, **options: str) -> None:
        fields = [("uid", uid) for uid in uids] + list(options.items())
        self.driver.get(f"{self.address}/page?{urlencode(fields)}")

    def state(self, number: int = 0) -> str:
        script = "return document.querySelectorAll('asyncjob-progress')[arguments[0]].dataset.state"
        return str(self.driver.execute_script(script, number))

    def text(self) -> str:
        return str(self.find(".asyncjob-said").text)

    def bar(self) -> Any:
        """Value and maximum of the bar; None for one that only moves."""
        script = """const bar = document.querySelector("progress");
            return bar.position < 0 ? null : [bar.value, bar.max];"""
        return self.driver.execute_script(script)

    def spoken(self) -> str:
        script = "return document.querySelector('[role=status]').textContent"
        return str(self.driver.execute_script(script))

    def complaints_but(self, text: str) -> list[str]:
        """The complaints without those of a status that was meant."""
        return [each for each in self.complaints() if text not in each]

    def until_state(self, state: str) -> None:
        self.until(lambda: self.state() == state)


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with JobQueue(threads=1, drain_timeout=1) as made:
        yield made


@pytest.fixture
def host(queue: JobQueue) -> Host:
    return Host(queue)


@pytest.fixture
def page(driver: Any, host: Host) -> Iterator[Page]:
    server = StopableWSGIServer.create(host, threads=8)
    driver.get_log("browser")
    yield Page(driver, server.application_url.rstrip("/"))
    driver.get("about:blank")
    server.shutdown()
    server.runner.join(SECONDS)


@pytest.fixture
def jobs(queue: JobQueue) -> Jobs:
    return Jobs(queue)


class Steps:
    """A job of some steps, each of which waits until the test lets it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._allowed = threading.Semaphore(0)

    def allow(self, number: int = 1) -> None:
        self._allowed.release(number)

    def run(self) -> None:
        asyncjob_set_progress(0, total=self.number)
        for step in range(1, self.number + 1):
            assert self._allowed.acquire(timeout=SECONDS)
            asyncjob_set_progress(step, f"step {step}", total=self.number)


def test_bar_goes_from_nothing_to_the_end(page, queue, host):
    steps = Steps(4)
    uid = queue.perform(steps.run)
    page.open(uid)
    assert page.text() == "Waiting"
    assert page.bar() == [0, 1]

    queue.start_worker()
    page.until(lambda: page.bar() == [0, 4])
    seen = []
    for step in range(1, 4):
        steps.allow()
        page.until(lambda step=step: page.bar() == [step, 4])
        seen.append(page.text())
    steps.allow()
    page.until_state("done")

    assert page.bar() == [1, 1]
    assert page.text() == "Done"
    said = [f"Running {25 * step} %, step {step}" for step in range(1, 4)]
    # the time that is left comes after it, if the steps took long enough
    assert [text[: len(each)] for text, each in zip(seen, said, strict=True)] == said
    assert page.spoken() == f"Job {uid[-4:]}: Done"
    page.count_requests()
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.requests_after_timers() == 0  # nobody asks for a job that has ended
    assert page.complaints() == []


def test_job_is_cancelled_by_its_button(page, jobs, queue):
    uid = jobs.running(1, "one", 4)
    page.open(uid, cancel="1")
    page.until(lambda: not page.find(".asyncjob-reload").is_displayed())

    page.find(".asyncjob-cancel button").click()
    page.until_state("cancelling")
    page.until(lambda: queue.backend.briefs([uid])[uid].is_cancelled)
    jobs.end(uid, Outcome(FAILED))
    page.until_state("failed")

    assert page.driver.find_elements(By.CSS_SELECTOR, "form.asyncjob-cancel") == []
    assert page.driver.execute_script("return document.activeElement.tagName") == (
        "ASYNCJOB-PROGRESS"
    )
    assert page.complaints() == []


def test_waiting_job_is_cancelled_by_its_button(page, jobs):
    page.open(jobs.waiting(), cancel="1")

    page.find(".asyncjob-cancel button").click()

    page.until_state("cancelled")
    assert page.text().endswith("Cancelled")


def test_failure_is_shown_with_class_and_message(page, jobs):
    uid = jobs.running(1, "one", 4)
    page.open(uid)

    jobs.end(uid, Outcome(FAILED, error=TaskError("app.Broken", "<b>no\ncolour</b>", "secret")))
    page.until_state("failed")

    assert page.text().endswith("Failed: Broken: <b>no colour</b>")
    assert page.spoken().endswith("Failed: Broken: <b>no colour</b>")
    assert page.bar() == [1, 4]


def test_job_is_cancelled_by_the_keyboard_alone(page, jobs):
    page.open(jobs.waiting(), cancel="1")

    page.tab_to("Cancel")
    page.press(Keys.ENTER)
    page.until_state("cancelled")

    assert "asyncjob-progress" in page.focused()  # the button is gone, the focus is not


def test_job_that_failed_once_is_shown_again_from_its_next_attempt_on(page, jobs):
    uid = jobs.retrying(delay=0)
    page.open(uid)
    page.until_state("retrying")

    jobs.claim_again(uid)
    jobs.report(uid, 1, "again", 4)
    page.until(lambda: page.text() == "Running, attempt 2 25 %, again")
    jobs.end(uid, Outcome(SUCCESSFUL))

    page.until_state("done")


GERMAN = {
    "Waiting to try again": "Wartet auf einen neuen Versuch", "Waiting": "Wartet",
    "Running": "Läuft", "about %(time)s left": "noch etwa %(time)s", "Done": "Fertig",
    "Starts in %(time)s": "Beginnt in %(time)s", "%(number)s min": "%(number)s Min.",
    "The server does not answer. Trying again.": "Der Server antwortet nicht.",
}  # fmt: skip


class German(NullTranslations):
    """The catalogue of the host."""

    def gettext(self, message: str) -> str:
        return GERMAN.get(message, message)

    def ngettext(self, singular: str, plural: str, number: int) -> str:
        return "Wartet, %(number)s davor" if plural.startswith("Waiting") else plural


def test_script_speaks_the_language_of_the_host(page, jobs, host):
    host.translations = German()
    uid, later = jobs.waiting(queue_name="claimed"), jobs.waiting(run_after=timedelta(minutes=5))
    page.open(uid, later)
    page.until(lambda: host.asked)
    waiting = [each.text for each in page.driver.find_elements(By.CSS_SELECTOR, ".asyncjob-said")]

    jobs.claim_again(uid)
    jobs.report(uid, 1, "eins", 4)
    page.until(lambda: page.text() == "Läuft 25 %, eins")
    host.is_away = True
    page.until(lambda: page.text() == "Der Server antwortet nicht.")
    host.is_away = False
    jobs.end(uid, Outcome(SUCCESSFUL))
    page.until(lambda: page.text() == "Fertig")

    assert waiting == ["Wartet", "Beginnt in 5 Min."]
    assert page.complaints_but("502") == []


def test_job_that_tries_again_counts_down(page, jobs):
    page.open(jobs.retrying(delay=90))
    first = page.text()

    page.until(lambda: page.text() != first)

    assert "Trying again in " in first
    assert "Trying again in " in page.text()


def test_page_goes_on_to_then_once_the_job_is_done(page, jobs):
    uid = jobs.running()
    page.open(uid, then="/album?page=3")

    jobs.end(uid, Outcome(SUCCESSFUL))

    page.until(lambda: page.driver.current_url.endswith("/album?page=3"))
    assert page.complaints() == []


def test_page_stays_if_the_job_has_failed_or_was_done_before(page, jobs, host):
    page.open(jobs.done(), then="/album")
    assert page.find("a.asyncjob-then").text == "Continue"

    uid = jobs.running()
    page.open(uid, then="/album")
    jobs.end(uid, Outcome(FAILED))
    page.until_state("failed")

    assert page.driver.find_elements(By.CSS_SELECTOR, "asyncjob-progress") != []
    assert "/page?" in page.driver.current_url


def test_fifty_bars_are_one_request(page, jobs, host):
    uids = [jobs.running(1, "one", 4) for _ in range(50)]
    page.open(*uids)

    page.until(lambda: len(host.asked) >= 2)

    assert [asked for _, asked in host.asked[:2]] == [uids, uids]


def test_more_bars_are_asked_for_in_parts_of_fifty(page, jobs, host):
    uids = [jobs.waiting() for _ in range(51)]
    page.open(*uids)

    page.until(lambda: len(host.asked) >= 2)

    assert [asked for _, asked in host.asked[:2]] == [uids[:50], uids[50:]]


def test_pauses_grow_while_nothing_moves(page, jobs, host):
    page.open(jobs.waiting())

    page.until(lambda: len(host.asked) >= 4)

    times = [when for when, _ in host.asked]
    first, second, third = (later - sooner for sooner, later in pairwise(times[:4]))
    assert 0.9 < first < second < third


def test_hidden_page_asks_for_nothing_and_at_once_when_it_is_seen_again(page, jobs, host):
    uid = jobs.running(1, "one", 4)
    page.open(uid)
    page.until(lambda: host.asked and "25 %" in page.text())

    page.hide()
    page.count_requests()
    jobs.end(uid, Outcome(SUCCESSFUL))
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.requests_after_timers() == 0
    assert page.state() == "running"
    page.hide(False)
    assert page.requests_after_timers() == 1

    page.until_state("done")


def test_minimised_window_is_hidden_and_shows_the_end_when_it_comes_back(page, jobs, host):
    uid = jobs.running(1, "one", 4)
    page.open(uid)
    page.until(lambda: host.asked)
    shown = page.driver.get_window_rect()
    page.run("document.addEventListener('visibilitychange', () => sessionStorage.seen ="
             " (sessionStorage.seen || '') + document.visibilityState + ' ')")  # fmt: skip

    page.driver.minimize_window()
    jobs.end(uid, Outcome(SUCCESSFUL))
    page.driver.set_window_rect(**shown)

    page.until_state("done")
    assert page.run("return sessionStorage.seen") == "hidden visible "


def test_page_says_that_the_server_is_away_and_goes_on_when_it_is_back(page, jobs, host):
    uid = jobs.running(1, "one", 4)
    page.open(uid)
    page.until(lambda: "25 %" in page.text())

    host.is_away = True
    page.until(lambda: "The server does not answer. Trying again." in page.text())
    host.is_away = False
    page.until(lambda: "25 %" in page.text())
    jobs.end(uid, Outcome(SUCCESSFUL))
    page.until_state("done")


def test_clock_of_the_laptop_does_not_matter(page, jobs):
    command = "Page.addScriptToEvaluateOnNewDocument"
    a_day_ahead = "{ const now = Date.now; Date.now = () => now() + 86400000; }"
    added = page.driver.execute_cdp_cmd(command, {"source": a_day_ahead})
    uid = jobs.retrying(delay=30)
    try:
        page.open(uid)
        page.until(lambda: "Trying again in " in page.text())
        shown = int(page.text().partition(" in ")[2].removesuffix(" s"))
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    assert 10 < shown <= 30


def test_time_left_is_that_of_the_server(page, jobs, monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(jobs.backend, "_clock", clock)
    uid = jobs.running(0, None, 100)
    page.open(uid)
    texts = []
    for value in (10, 20, 30, 39, 49):
        clock.advance(10)
        jobs.report(uid, value, None, 100)
        page.until(lambda value=value: f"{value} %" in page.text())
        texts.append(page.text().rpartition(", ")[2])

    assert texts == ["Running 10 %", *["about 90 s left"] * 3, "about 55 s left"]


@pytest.fixture
def plain_page(page: Page) -> Iterator[Page]:
    """A page in a browser without JavaScript."""
    set_script_enabled(page.driver, False)
    yield page
    set_script_enabled(page.driver, True)


def test_without_javascript_a_button_reloads_the_page(plain_page, jobs):
    uid = jobs.running(1, "one", 4)
    plain_page.open(uid, then="/album")
    assert "25 %, one" in plain_page.text()

    jobs.report(uid, 2, "two", 4)
    plain_page.find(".asyncjob-reload button").click()
    plain_page.until(lambda: "50 %, two" in plain_page.text())
    assert "/page?" in plain_page.driver.current_url

    jobs.end(uid, Outcome(SUCCESSFUL))
    plain_page.find(".asyncjob-reload button").click()
    plain_page.until(lambda: plain_page.driver.current_url.endswith("/album"))


def test_without_javascript_the_button_cancels_and_shows_the_page_again(plain_page, jobs, queue):
    uid = jobs.waiting()
    plain_page.open(uid, cancel="1")

    plain_page.find(".asyncjob-cancel button").click()

    plain_page.until(lambda: "Cancelled" in plain_page.text())
    assert "/page?" in plain_page.driver.current_url


def test_where_the_host_forbids_the_script_the_element_works_as_without(page, jobs, host):
    host.policy = "default-src 'none'; style-src 'self'; form-action 'self'"
    uid = jobs.running(1, "one", 4)
    page.open(uid)

    jobs.end(uid, Outcome(SUCCESSFUL))
    page.find(".asyncjob-reload button").click()

    page.until_state("done")


def test_states_are_told_apart_by_shape_and_text_in_view(page, jobs):
    uids = jobs.of_each_state()
    page.open(*uids.values())
    script = """return [...document.querySelectorAll(".asyncjob-shape")].map(
        (each) => getComputedStyle(each, "::before").content)"""

    shapes = page.driver.execute_script(script)

    assert len(set(shapes)) == len(uids)
    assert "none" not in shapes


# -- a real server, killed in the middle

PROGRAM = """
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tg import MinimalApplicationConfigurator, TGController, expose
from tgext.asyncjob import asyncjob_perform, asyncjob_progress, asyncjob_set_progress
from tgext.asyncjob import start_async_worker

folder = Path(__file__).parent

def work():
    with open(folder / "steps") as steps:  # a pipe: waits for the test
        for step in steps:
            if step.strip() == "end":
                break
            asyncjob_set_progress(int(step), total=4)

class Root(TGController):
    @expose()
    def start(self):
        return asyncjob_perform(work)

    @expose()
    def job(self, uid):
        return f"<!doctype html><html><body>{asyncjob_progress(uid, 'Work')}</body></html>"

class Globals:
    def __init__(self):
        start_async_worker(backend="sql", url=f"sqlite:///{folder}/jobs.db")

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass

config = MinimalApplicationConfigurator()
config.update_blueprint({"root_controller": Root(), "app_globals": Globals})

def serve(port):
    application = config.make_wsgi_app({}, {})
    server = make_server("127.0.0.1", port, application, Server, Quiet)
    print("serves", flush=True)
    server.serve_forever()
"""


class Program:
    """A server process, started again at the same address after it was killed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        (folder / "program.py").write_text(PROGRAM)
        os.mkfifo(folder / "steps")
        self._pipe: TextIO | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import program; program.serve({self.port})"], cwd=self._folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"serves\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=SECONDS)
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def allow(self, *steps: str) -> None:
        """Let the job go on by these steps; the first time wait until a job reads."""
        if self._pipe is None:
            self._pipe = (self._folder / "steps").open("w")
        self._pipe.write("".join(f"{step}\n" for step in steps))
        self._pipe.flush()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    made.kill()


def test_bar_goes_on_after_the_server_was_killed_in_the_middle(driver, program):
    page = Page(driver, program.address)
    driver.get(f"{program.address}/start")
    uid = page.find("body").text
    driver.get(f"{program.address}/job?uid={uid}")
    program.allow("1", "2")
    page.until(lambda: page.bar() == [2, 4])

    program.kill()
    page.until(lambda: "The server does not answer" in page.text())
    program.start()
    program.allow("3", "4")
    page.until(lambda: page.bar() == [4, 4])
    program.allow("end")
    page.until_state("done")

    assert page.text().endswith("Done")
