"""The dashboard in a real browser: every page narrow and wide, its keys, its buttons, its updates.

axe-core, which the package axe-playwright-python brings, looks at every page; Playwright is not
used. The pages are those of jobs in SQLite that no worker runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from sqlalchemy import delete
from webtest.http import StopableWSGIServer

from chromium import SECONDS, BrowserPage, driver, set_script_enabled
from dashboard_jobs import REFUSED, PastDay, Shop
from databases import sqlite_with_tables
from tgext.asyncjob import JobQueue, policies, task
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import CANCELLED, FAILED, READY, Outcome, Progress
from tgext.asyncjob.sharing import share_of
from tgext.asyncjob.web import Rights, WebApplication
from webpages import Jobs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

__all__ = ["driver"]  # a fixture

PAGES = {
    "Overview": "/", "Jobs": "/jobs", "Failures": "/failures", "Queues": "/queues",
    "Schedules": "/schedules", "Limits": "/limits", "Workers": "/workers", "Audit": "/audit",
}  # fmt: skip


NARROW, WIDE = 390, 1280


class Host:
    """Serves the dashboard at ``/asyncjob`` for one who may act, and counts what is asked."""

    def __init__(self, queue: JobQueue) -> None:
        self.asked: list[tuple[str, str]] = []  #: path, and status
        self.is_away = False
        self._web = WebApplication(queue, rights=lambda _environ: Rights("boss", may_act=True))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if self.is_away or not path.startswith("/asyncjob/"):  # such as /favicon.ico
            start_response("503 Away" if self.is_away else "204 No Content", [])
            return [b""]

        def start(status: str, headers: Any, *rest: Any) -> Any:
            if "static" not in path:
                self.asked.append((path.removeprefix("/asyncjob"), status[:3]))
            return start_response(status, headers, *rest)

        environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/asyncjob", path[len("/asyncjob") :]
        return self._web(environ, start)


class Page(BrowserPage):
    """A page of the dashboard."""

    def look(self, width: int = WIDE, scheme: str = "light") -> None:
        """Set the width of the window, and the scheme of colours."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: str) -> None:
        self.driver.get(f"{self.address}/asyncjob{path}")

    def text(self, selector: str = "main") -> str:
        return str(self.find(selector).text)

    def read_again(self, host: Host) -> None:
        """Press "r" until the page was asked for twice: it is, only after it was taken once."""
        asked = len(host.asked)

        def press() -> bool:
            self.run("document.activeElement.dispatchEvent("
                     "new KeyboardEvent('keydown', {key: 'r', bubbles: true}))")  # fmt: skip
            return len(host.asked) >= asked + 2

        self.until(press)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with JobQueue("sql", threads=0, url=sqlite_with_tables(tmp_path)) as made:
        yield made


@pytest.fixture
def shop(queue: JobQueue) -> Shop:
    return Shop(queue)


@pytest.fixture
def host(queue: JobQueue) -> Host:
    return Host(queue)


@pytest.fixture
def page(driver: Any, host: Host) -> Iterator[Page]:
    server = StopableWSGIServer.create(host, threads=4)
    made = Page(driver, server.application_url.rstrip("/"))
    made.look()
    driver.get_log("browser")
    yield made
    made.run("sessionStorage.clear()")  # another test's server may have the same address
    driver.get("about:blank")
    server.shutdown()
    server.runner.join(SECONDS)


# -- every page


#: What axe-core looks at again in the other scheme: the rules that depend on colours.
OF_COLOURS = ["color-contrast", "link-in-text-block"]

#: The charts' tables have a row for each minute, all written alike: axe-core sees the first ones,
#: as each of a thousand cells takes it a millisecond.
FEWER_ROWS = """for (const row of document.querySelectorAll("details tbody tr:nth-child(n + 6)"))
    row.remove();"""


def violations(page: Page, rules: list[str] | None = None) -> list[tuple[str, str]]:
    """Ask axe-core, which is loaded: the rule, and the first element that breaks it."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}  # of the others not each element
    if rules is not None:
        options["runOnly"] = rules
    found = page.driver.execute_async_script("axe.run(arguments[0]).then(arguments[1])", options)
    return [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]


@pytest.mark.timeout(300)  # some thirty pages, each looked at three times
def test_page_is_accessible_fits_and_complains_of_nothing(page, shop):
    uids = shop.open()
    shop.backend.statistics = PastDay(time.time())
    shop.add(args=("x" * 500,), queue_name="q" * 64, user="u" * 300)
    shop.queue.pause("y" * 64, by="u" * 300)
    shop.queue.result(uids["failed"]).retry(by="ann")
    with shop.queue.as_current():
        limited = task(share_key=True, limit=1, limit_key="k" * 300, queue_name="q" * 64)(len)
        limited.enqueue_many([("a",)] * 3)
    states = {
        name: uid for name, uid in Jobs(shop.queue).of_each_state().items() if name != "unknown"
    }
    uids |= {f"{name} state": uid for name, uid in states.items()}
    keys = policies.Keys(policies.Limit("k" * 200, 1), policies.Rate("r" * 200, 1, 60.0))
    uids["blocked"] = [shop.add(keys=keys, queue_name="keys") for _ in range(2)][1]
    owners = Call(print, (), None)
    turns = [policies.Keys(share=share_of("o" * 200, owners, "turns", 0, None)) for _ in range(2)]
    uids["turn"] = [shop.add(keys=each, queue_name="turns") for each in turns][1]
    shop.queue.limit("q" * 64, 1)
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    schedule = shop.queue.schedule("s" * 250, len, ["x"], cron="0 0 29 2 *")
    schedule.run_now()
    schedule.pause()
    paths = [*PAGES.values(), "/jobs?status=LOST", "/failures?retried=3", "/job?uid=unknown",
             "/jobs/all?action=retry", "/jobs?status=CANCELLED&did=retry&changed=1&of=2",
             f"/schedule?of={schedule.name}", "/reload?uid=asyncjob_unknown",
             f"/reload?uid={states['cancelling']}"]  # fmt: skip

    for path in [*paths, *(f"/job?uid={uid}" for uid in uids.values())]:
        page.open(path)
        for details in page.driver.find_elements(By.TAG_NAME, "details"):
            page.run("arguments[0].open = true", details)
        for width in (NARROW, WIDE):
            page.look(width)
            assert page.run("return document.documentElement.scrollWidth") <= width, path
        page.run(FEWER_ROWS + axe)
        is_error = path in ("/jobs?status=LOST", "/job?uid=unknown")

        assert violations(page) == [], path
        page.look(NARROW)
        assert violations(page) == [], path
        # only what is narrow: no colour depends on the width
        page.look(NARROW, "dark")
        assert page.run("return matchMedia('(prefers-color-scheme: dark)').matches")
        assert violations(page, OF_COLOURS) == [], path
        told = page.complaints()
        assert all(is_error and "status of 40" in each for each in told), (path, told)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_in_the_colours_of_the_scheme(page, shop, scheme):
    shop.backend.statistics = PastDay(time.time())
    page.look(scheme=scheme)
    page.open("/")

    drawn = page.run(
        "return [...document.querySelectorAll('svg path')].map(each => {"
        "const box = each.ownerSVGElement.getBoundingClientRect();"
        "return [getComputedStyle(each).fill, box.width > 200, box.height > 10]})"
    )

    assert len(drawn) == 8
    assert all(is_wide and is_high for _, is_wide, is_high in drawn)
    good, bad, *_ = (colour for colour, _, _ in drawn)
    assert len({colour for colour, _, _ in drawn}) == 4
    assert (good, bad) == {
        "light": ("rgb(20, 112, 58)", "rgb(168, 28, 23)"),
        "dark": ("rgb(111, 211, 154)", "rgb(255, 154, 146)"),
    }[scheme]


def test_numbers_of_a_chart_are_opened_by_the_keyboard_and_stay_open(page, shop, host):
    shop.backend.statistics = past = PastDay(time.time())
    page.open("/")

    page.tab_to("Numbers of the last hour")
    page.press(Keys.ENTER)
    page.until(lambda: page.find("details").get_property("open"))
    rows = page.run("return document.querySelectorAll('details[open] tbody tr').length")
    chart = page.run("return document.querySelector('svg path').getAttribute('d')")
    past.now -= 3  # as if time went on: the charts move
    page.read_again(host)
    script = "return document.querySelector('svg path').getAttribute('d')"
    page.until(lambda: page.run(script) != chart)

    assert 57 <= rows <= 60
    assert page.find("details").get_property("open")
    assert page.complaints() == []


def test_navigation_leads_to_every_page(page, shop):
    shop.open()
    page.open("/")

    for title in PAGES:
        page.driver.find_element(By.LINK_TEXT, title).click()
        page.until(lambda title=title: page.text("h1") == title)
    assert page.complaints() == []


def test_skip_link_comes_first_and_leads_to_the_content(page, shop):
    page.open("/")

    page.press(Keys.TAB)
    assert "skip" in page.focused()
    page.press(Keys.ENTER)
    page.until(lambda: 'id="content"' in page.focused())


# -- buttons, by the keyboard alone


def test_job_is_retried_by_the_keyboard(page, shop, queue):
    uid = shop.fail()
    page.open(f"/job?uid={uid}")

    page.tab_to("Retry this job")
    page.press(Keys.ENTER)

    page.until(lambda: "Waiting" in page.text("asyncjob-progress"))
    assert queue.result(uid).status is READY


def test_job_is_cancelled_by_the_keyboard(page, shop, queue):
    uid = shop.add()
    page.open(f"/job?uid={uid}")

    page.tab_to("Cancel this job")
    page.press(Keys.SPACE)

    page.until(lambda: page.text("asyncjob-progress").endswith("Cancelled"))
    assert queue.result(uid).status is CANCELLED
    assert page.run("return location.pathname") == "/asyncjob/job"


def test_queue_is_paused_and_resumed_by_the_keyboard(page, shop, queue):
    shop.add()
    page.open("/queues")

    page.tab_to("Pause mail")
    page.press(Keys.ENTER)
    page.until(lambda: "by boss" in page.text())
    assert [each.user for each in queue.paused()] == ["boss"]
    page.tab_to("Resume mail")
    page.press(Keys.ENTER)
    page.until(lambda: "by boss" not in page.text())

    assert queue.paused() == []


def test_jobs_are_chosen_and_retried_by_the_keyboard(page, shop, host, queue):
    uids = [shop.fail() for _ in range(3)]
    page.open("/jobs?status=FAILED")
    page.press("j", "x", "j", "x")
    page.read_again(host)  # what is chosen stays chosen

    assert page.run("return document.querySelectorAll('[name=job]:checked').length") == 2
    page.tab_to("Retry selected")
    page.press(Keys.ENTER)
    page.until(lambda: "2 jobs were enqueued again." in page.text())

    assert sorted(queue.result(uid).status for uid in uids) == [FAILED, READY, READY]
    assert queue.audit()[0].user == "boss"


def test_box_chooses_all_jobs_of_the_page(page, shop, queue):
    for _ in range(3):
        shop.add()
    page.open("/jobs")

    page.tab_to("Select all jobs of this page")
    page.press(Keys.SPACE)
    page.tab_to("Cancel selected")
    page.press(Keys.ENTER)
    page.until(lambda: "3 jobs were cancelled." in page.text())

    assert queue.backend.counts()[CANCELLED] == 3


def test_all_that_match_are_retried_by_the_keyboard(page, shop, queue):
    shop.fail()
    shop.fail()
    page.open("/jobs?status=FAILED")

    page.tab_to("Retry all that match")
    page.press(Keys.ENTER)
    page.until(lambda: "2 jobs will be enqueued again" in page.text())
    page.tab_to("Retry 2 jobs")
    page.press(Keys.ENTER)
    page.until(lambda: "Waiting" in page.text("asyncjob-progress"))
    queue.run_pending(1)

    page.until(lambda: "Done" in page.text("asyncjob-progress"))
    assert queue.audit()[0].result == "2 of 2"


def test_schedule_is_run_paused_resumed_and_deleted_by_the_keyboard(page, queue):
    schedule = queue.schedule("nightly", len, ["x"], cron="0 0 * * *")
    page.open("/schedules")
    page.press("j", Keys.ENTER)
    page.until(lambda: page.text("h1") == "Schedule")

    page.tab_to("Enqueue a job of this schedule now")
    page.press(Keys.ENTER)
    page.until(lambda: "enqueued" in page.text("[data-part=ticks]"))
    page.tab_to("Pause this schedule")
    page.press(Keys.ENTER)
    page.until(lambda: "it is paused by boss" in page.text())
    page.tab_to("Resume this schedule")
    page.press(Keys.ENTER)
    page.until(lambda: "it is paused" not in page.text())
    page.tab_to("Delete this schedule")
    page.press(Keys.SPACE)
    page.until(lambda: "There are no schedules." in page.text())

    assert schedule.refresh() is False
    assert queue.backend.counts()[READY] == 1
    acts = [each.action for each in queue.audit()]
    assert acts == ["delete", "resume", "pause", "run now"]


def test_group_is_retried_by_the_keyboard(page, shop, queue):
    shop.fail()
    shop.fail()
    page.open("/failures")

    page.tab_to("Retry 2 of dashboard_jobs.send_invoice")
    page.press(Keys.ENTER)

    page.until(lambda: "2 jobs were enqueued again." in page.text())
    assert queue.backend.counts()[READY] == 2


# -- keys


def test_keys_move_in_the_rows_find_and_tell_what_they_do(page, shop):
    shop.open()
    page.open("/jobs")
    at = "return [...document.querySelectorAll('[data-row]')].indexOf(document.activeElement)"

    page.press("j")
    assert page.run(at) == 0
    page.press("jjk")
    assert page.run(at) == 1
    page.press("?")
    assert page.find("#keys").is_displayed()
    page.press("?")
    assert not page.find("#keys").is_displayed()
    page.press("/")
    assert 'name="name"' in page.focused()
    page.press("j?/")
    assert page.run("return document.activeElement.value") == "j?/"
    assert not page.find("#keys").is_displayed()


def test_key_leads_from_another_page_to_the_field(page, shop):
    page.open("/workers")

    page.press("/")

    page.until(lambda: 'name="name"' in page.focused())


def test_keys_can_be_switched_off(page, shop):
    shop.open()
    page.open("/jobs")
    page.find("[data-keys]").click()
    page.find("[data-off]").click()

    page.press("j")

    assert "data-row" not in page.focused()
    assert page.text("[data-off]") == "Switch keys on"


# -- updates


def test_page_follows_what_happens(page, shop, host):
    uid = shop.add()
    claim = shop.start(uid, 1, None, 4)
    page.open("/")
    page.until(lambda: "25 %" in page.text())  # another thread writes it

    shop.backend.report(claim, Progress(2, None, 4))

    page.until(lambda: "50 %" in page.text())
    assert page.complaints() == []


def test_part_with_the_focus_or_a_selection_is_left_alone(page, shop, host):
    shop.add()
    page.open("/queues")
    page.tab_to("Pause mail")
    shop.backend.pause("mail", "ann")

    page.read_again(host)
    assert page.run("return document.activeElement.ariaLabel") == "Pause mail"

    page.run("document.activeElement.blur(); getSelection().selectAllChildren("
             "document.querySelector('[data-part=queues]'))")  # fmt: skip
    page.read_again(host)
    assert "by ann" not in page.text()

    page.run("getSelection().removeAllRanges()")
    page.read_again(host)
    assert "by ann" in page.text()


def test_part_with_something_opened_is_left_alone(page, shop, host, queue):
    uid = shop.fail()
    page.open(f"/job?uid={uid}")
    page.find("details summary").click()
    page.run("document.activeElement.blur()")
    queue.result(uid).retry()
    shop.end(uid, Outcome(FAILED, error=REFUSED))

    page.read_again(host)
    assert page.find("details").get_attribute("open") is not None
    assert "failure 2" not in page.text()

    page.run("document.querySelector('details').open = false")
    page.read_again(host)
    assert "failure 2" in page.text()


def test_page_that_is_the_same_is_answered_without_content(page, shop, host):
    page.open("/workers")
    for _ in range(2):
        page.read_again(host)

    # The heartbeat may have got ten seconds older once.
    assert [status for _path, status in host.asked].count("304") >= 2


def test_paused_updates_ask_for_nothing_until_they_are_resumed(page, shop, host):
    page.open("/queues")
    page.find("[data-pause]").click()
    assert page.text("[data-said]") == "Updates are paused"
    shop.add()
    page.open("/queues?again")  # the choice is kept
    page.count_requests()
    shop.backend.pause("mail", "ann")
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.requests_after_timers() == 0

    page.find("[data-pause]").click()

    page.until(lambda: "by ann" in page.text())
    assert page.text("[data-said]") == ""


def test_hidden_page_asks_for_nothing(page, shop, host):
    page.open("/queues")
    page.hide()
    page.count_requests()
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.requests_after_timers() == 0

    page.hide(False)
    assert page.requests_after_timers() == 1


def test_server_that_does_not_answer_is_said_and_the_page_goes_on_later(page, shop, host):
    shop.add()
    page.open("/queues")
    host.is_away = True
    page.press("r")
    page.until(lambda: page.text("[data-said]") == "The server does not answer. Trying again.")

    host.is_away = False
    shop.backend.pause("mail", "ann")
    page.press("r")

    page.until(lambda: "by ann" in page.text() and page.text("[data-said]") == "")


def test_page_of_a_job_that_is_gone_says_so_and_asks_no_more(page, shop, host, queue):
    uid = shop.fail()
    page.open(f"/job?uid={uid}")
    with queue.backend._dialect.engine.begin() as connection:
        connection.execute(delete(queue.backend.tables.jobs))
    page.press("r")
    page.until(lambda: "cannot be read any more" in page.text("[data-said]"))

    page.count_requests()
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.requests_after_timers() == 0
    page.press("r")
    page.until(lambda: page.text("h1") == "No such job")
    assert not page.find("[data-pause]").is_displayed()


def test_everything_works_without_javascript(page, shop, queue):
    uid = shop.fail()
    set_script_enabled(page.driver, False)
    try:
        page.open("/jobs?status=FAILED")
        page.driver.find_element(By.LINK_TEXT, "dashboard_jobs.send_invoice").click()
        page.until(lambda: page.find("button[aria-label='Retry this job']").click() or True)
        page.until(lambda: "Waiting" in page.text("asyncjob-progress"))
        assert not page.find("[data-pause]").is_displayed()
    finally:
        set_script_enabled(page.driver, True)
    assert queue.result(uid).status is READY
