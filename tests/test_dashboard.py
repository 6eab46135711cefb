"""The pages of the dashboard, asked over HTTP: what they show, and what their forms do."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from sqlalchemy import Engine, event, update

from dashboard_jobs import REFUSED, Shop, send_invoice
from databases import sqlite_with_tables
from sqlqueues import KINDS, place_of
from test_web_rights import ORIGINS, ask
from tgext.asyncjob import JobQueue, bulk
from tgext.asyncjob.backends.audit import Act
from tgext.asyncjob.backends.limits import MOST_KEYS
from tgext.asyncjob.backends.listing import JobFilter
from tgext.asyncjob.backends.schedules import NewSchedule
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import (
    CANCELLED,
    FAILED,
    READY,
    SUCCESSFUL,
    Job,
    Outcome,
    TaskError,
    WorkerId,
)
from tgext.asyncjob.policies import Keys, Limit, Rate
from tgext.asyncjob.recurrence import Recurrence
from tgext.asyncjob.sharing import share_of
from tgext.asyncjob.task_options import DEFAULT_OPTIONS, TaskOptions
from tgext.asyncjob.web import Rights
from tgext.asyncjob.web.routes import ROUTES
from tgext.asyncjob.web.statics import FOLDER
from tgext.asyncjob.web.tokens import Tokens
from webpages import BASE, FORBIDDEN, HOSTILE, SAME_ORIGIN, Jobs, app_of, work

PAGES = ("/", "/jobs", "/failures", "/queues", "/schedules", "/limits", "/workers", "/audit")

#: Statements of a page, at most.
MOST_STATEMENTS = 12


@pytest.fixture(params=["memory", "sql"])
def queue(request: Any, tmp_path: Path) -> Iterator[JobQueue]:
    options = {"url": sqlite_with_tables(tmp_path)} if request.param == "sql" else {}
    with JobQueue(request.param, threads=0, secret="swordfish", **options) as made:
        yield made


@pytest.fixture
def shop(queue: JobQueue) -> Shop:
    return Shop(queue)


class Site:
    """The pages, as a manager sees them."""

    def __init__(self, queue: JobQueue, user: str | None = "manager") -> None:
        rights = {"rights": lambda _environ: Rights(user, may_act=True)} if user == HOSTILE else {}
        self.app = app_of(queue, **rights)
        if user is not None:
            self.app.extra_environ["test.user"] = user

    def get(self, path: str, fields: Any = None, **options: Any) -> Any:
        return self.app.get(f"{BASE}{path}", fields, **options)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
        sent = SAME_ORIGIN if headers is None else headers
        return self.app.post(f"{BASE}{path}", fields, headers=sent, expect_errors=True)

    def text(self, path: str, **fields: str) -> str:
        """The text of a page's content, in one line."""
        return " ".join(self.get(path, fields).html.main.get_text(" ").split())

    def rows(self, path: str, **fields: str) -> list[list[str]]:
        """The rows of the first table."""
        return [
            [" ".join(cell.get_text(" ").split()) for cell in row.find_all(["th", "td"])]
            for row in self.get(path, fields).html.select("tbody tr")
        ]


@pytest.fixture
def site(queue: JobQueue) -> Site:
    return Site(queue)


# -- the frame


def test_page_has_a_language_a_title_landmarks_and_where_it_is(site, shop):
    shop.open()

    for path in PAGES:
        page = site.get(path).html

        assert page.html["lang"] == "en", path
        assert page.title.text == f"{page.h1.text} - Jobs"
        assert len(page.find_all("main")) == len(page.find_all("h1")) == 1, path
        assert page.find("a", class_="skip")["href"] == "#content", path
        assert page.main["id"] == "content", path
        here = page.nav.find_all("a", attrs={"aria-current": "page"})
        assert [link.text for link in here] == [page.h1.text]


def test_page_has_no_inline_script_style_or_handler(site, shop):
    uid = shop.open()["failed"]

    for path in [*PAGES, "/job"]:
        for each in site.get(path, {"uid": uid}).html.find_all(True):
            assert not [name for name in each.attrs if name.startswith("on") or name == "style"]
            assert each.name != "style", path
            assert each.name != "script" or (each["src"] and not each.text), path


@pytest.mark.parametrize("base", ["", "/a/b"])
def test_every_url_is_below_the_place_of_the_application(queue, shop, base):
    shop.open()
    app = app_of(queue, lambda _environ: Rights("boss", may_act=True), base)

    for path in PAGES:
        page = app.get(f"{base}{path}").html
        found = [
            each[name] for name in ("href", "src", "action") for each in page.select(f"[{name}]")
        ]
        assert [each for each in found if each.startswith("//")] == []
        assert {each for each in found if not each.startswith((f"{base}/", "#"))} == set()


def test_place_without_a_slash_leads_to_the_overview(site):
    assert site.get("").location == "/jobs/"


def test_page_that_is_not_allowed_says_which_permission_is_needed(tmp_path):
    with JobQueue(threads=0, web_readonly_permission="look", web_permission="steer") as queue:
        nobody, eve = Site(queue, None), Site(queue, "eve")

        assert 'You are not logged in. To see the jobs, the permission "look" or "steer"' in (
            nobody.get("/jobs", status=403).html.main.text
        )
        assert 'You are logged in as eve. To change jobs, the permission "steer" is' in (
            eve.post("/queues/pause", of="mail").html.main.text
        )


def test_reader_sees_no_button(queue, shop):
    uids, site = shop.open(), Site(queue, "reader")

    for path in (*PAGES, *(f"/job?uid={uid}" for uid in uids.values())):
        forms = site.get(path).html.find_all("form", method="post")
        assert forms == []


def test_page_that_is_the_same_is_not_sent_again(site, shop):
    shop.open()
    first = site.get("/queues")

    second = site.get("/queues", headers={"If-None-Match": first.headers["ETag"]}, status=304)
    shop.backend.pause("mail", "ann")
    third = site.get("/queues", headers={"If-None-Match": first.headers["ETag"]})

    assert (second.body, second.headers["Cache-Control"]) == (b"", "no-store")
    assert third.status_int == 200


# -- overview


def test_overview_shows_counts_queues_running_jobs_and_workers(site, shop, queue):
    shop.open()

    text = site.text("/")

    assert "Waiting 2 Running 1 Done 1 Failed 5 Cancelled 1" in text
    assert "reports paused 1 just now 0" in text
    assert "mail 1 just now 0" in text
    assert "resize_pictures_of_a_whole_album_and_tell_its_owner 25 % just now 1" in text
    assert "Waiting longest: dashboard_jobs.send_invoice , enqueued just now" in text
    if queue.backend.is_shared:
        assert "1 alive , with 4 threads." in text
    else:
        assert "Jobs are those of this process" in text


def test_big_number_is_capped(site, shop, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.web.dashboard.MOST_COUNTED", 2)
    monkeypatch.setattr("tgext.asyncjob.web.overview_page.MOST_COUNTED", 2)
    shop.open()

    assert "Failed 2+" in site.text("/")


def test_queue_that_no_worker_serves_comes_first_and_is_marked(tmp_path):
    with JobQueue("sql", threads=0, url=sqlite_with_tables(tmp_path)) as queue:
        jobs = Jobs(queue)
        queue.backend.register("w9", ["zoo"], 1)
        jobs.waiting(queue_name="zoo")
        jobs.waiting(queue_name="mail")
        queue.backend.dismiss("w9")
        queue.backend.register("w8", ["alpha", "zoo"], 1)
        jobs.waiting(queue_name="alpha")

        assert [row[0] for row in Site(queue).rows("/queues")] == [
            "mail no worker serves it", "alpha", "zoo",
        ]  # fmt: skip


# -- jobs


def test_list_is_narrowed_by_each_field(site, shop):
    shop.open()

    def found(**fields: str) -> list[str]:
        return [row[1] for row in site.rows("/jobs", **fields)]

    assert len(found()) == 10
    assert found(status="SUCCESSFUL") == ["Done"]
    assert found(queue="pictures") == ["Running"]
    assert found(user="bob") == ["Cancelled"]
    assert found(error="NoSuchOrder") == ["Failed"]
    assert len(found(name="dashboard_jobs.send_invoice", since="15m", status="")) == 9
    assert found(name="nothing") == []
    assert "No job is like that." in site.text("/jobs", name="nothing")


def test_page_that_has_looked_at_some_of_the_jobs_says_so(site, shop, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.web.jobs_page.LOOKED_AT", 2)
    shop.fail(queue_name="rare")
    for _ in range(4):
        shop.fail()

    first = site.get("/jobs?queue=rare")
    if not shop.backend.is_shared:  # memory looks at all
        assert len(first.html.main.select("tbody tr")) == 1
        assert "were looked at" not in first
        return
    last = first.click("Next page")

    assert "Only 2 jobs were looked at; the next page looks at" in first
    assert "No job is like that." not in first
    assert first.html.main.table is None
    assert len(last.html.main.select("tbody tr")) == 1
    assert "were looked at" not in last


def test_page_that_has_looked_at_some_of_what_waits_leads_to_what_has_ended(
    site, shop, monkeypatch
):
    monkeypatch.setattr("tgext.asyncjob.web.jobs_page.LOOKED_AT", 2)
    shop.fail(function=work)
    for _ in range(4):
        shop.add()
    wanted = f"/jobs?name={work.__module__}.work"
    if not shop.backend.is_shared:  # memory looks at all
        return

    first = site.get(wanted)
    last = first.click("Go on with what has ended")

    assert "Only 2 jobs were looked at" in first
    assert first.html.main.table is None
    assert [link.text for link in first.html.select("[data-part=pages] a")] == [
        "Next page", "Go on with what has ended"
    ]  # fmt: skip
    assert len(last.html.main.select("tbody tr")) == 1
    assert "Go on with what has ended" not in site.get(f"{wanted}&status=READY")


@pytest.mark.parametrize(
    ("of_request", "told"),
    [
        (
            {"request": "POST /orders", "request_id": "7f3a", "base_url": "https://shop.example"},
            "POST https://shop.example/orders, 7f3a",
        ),
        # of an earlier release
        ({"request_id": "7f3a", "base_url": "https://shop.example"}, "https://shop.example, 7f3a"),
        ({"request": "POST /orders"}, "POST /orders"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_job_tells_which_request_enqueued_it(site, queue, of_request, told):
    context = {"user": "ann", **of_request}
    call = Call(send_invoice, (1, "Ann"), None)
    uid = queue.backend.new_uid()
    queue.backend.enqueue([queue.backend.prepare(Job(uid, call, TaskOptions(), None, context))])

    assert f"Request {told} Uid" in site.text("/job", uid=uid)


def test_failure_tells_its_attempt_worker_and_time(site, shop):
    uid = shop.fail()

    [error] = (
        site.get(f"/job?uid={uid}").html.find(attrs={"data-part": "errors"}).find_all("article")
    )

    worker = ", web1-4711-5f3a" if shop.backend.is_shared else ""
    assert error.p.text == f"Attempt 1{worker}, just now"


def test_job_that_was_retried_has_had_more_attempts_than_one_retry_allows(site, shop):
    uid = shop.fail()
    said = [site.text("/job", uid=uid)]
    for _ in range(3):
        shop.queue.result(uid).retry()
        shop.end(uid, Outcome(FAILED, error=REFUSED))
        said.append(site.text("/job", uid=uid))

    assert "Attempts 1 of 3 allowed" in said[0]
    assert "Attempts 3 of 3 allowed" in said[2]
    assert "Attempts 4 in all, up to 3 after each retry" in said[3]


def test_form_shows_the_fields_of_the_url(site, shop):
    shop.open()

    form = site.get("/jobs", {"status": "FAILED", "user": 'a"<b>', "since": "90m"}).html.form

    assert form.find(attrs={"name": "user"})["value"] == 'a"<b>'
    assert [each["value"] for each in form.select("option[selected]")] == ["FAILED", "90m"]
    assert form["method"] == "get"


@pytest.mark.parametrize(
    "fields",
    [{"status": "LOST"}, {"since": "soon"}, {"since": "99999999999d"}, {"after": "x"},
     {"after": f"{10**30}-"}, {"after": "1-nan"}],
    ids=str,
)  # fmt: skip
def test_field_that_cannot_be_understood_is_said(site, fields):
    page = site.get("/jobs", fields, status=400).html

    assert next(iter(fields)) in page.find(role="alert").text


def test_pages_of_the_list_have_every_job_once(site, shop, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.web.jobs_page.ROWS", 4)
    shop.open()
    found, page = [], site.get("/jobs?status=&user=")

    while True:
        found += [parse_qs(urlsplit(link["href"]).query)["uid"][0]
                  for link in page.html.select("tbody a")]  # fmt: skip
        following = page.html.find("a", rel="next")
        if following is None:
            break
        page = site.app.get(following["href"])

    assert len(found) == len(set(found)) == 10
    assert page.html.find("a", string="First page")["href"] == "/jobs/jobs"


# -- one job


def test_page_of_a_failed_job_has_its_error_with_the_frames_of_the_application(site, shop):
    page = site.get("/job", {"uid": shop.open()["failed"]}).html

    assert page.find("asyncjob-progress")["data-state"] == "failed"
    assert [" ".join(each.get_text(" ").split()) for each in page.select(".frames li")] == [
        "shop/controllers/orders.py:41 in send_invoice client.post(url, data=invoice)",
        "shop/model/money.py:7 in total return sum(line.price for line in lines)",
    ]
    assert "2 frames of Python and of packages" in page.details.summary.text
    assert page.details.pre.text.strip() == REFUSED.traceback.strip()
    assert page.select_one("[data-part=log] pre").text.splitlines() == [
        "INFO shop.orders: sending", "WARNING shop.orders: slow answer",
    ]  # fmt: skip


def test_arguments_have_names_and_secrets_are_hidden(site, shop):
    text = site.text("/job", uid=shop.open()["failed"])

    assert "order 1042 customer 'Ann' api_key (hidden)" in text
    assert "swordfish" not in text


def test_page_of_each_job_tells_what_is_there(site, shop):
    uids = shop.open()

    assert "{'sent': 3, 'to': ['ann@shop.example']}" in site.text("/job", uid=uids["done"])
    assert "{'album': 7, 'secret': (hidden)}" in site.text("/job", uid=uids["running"])
    assert "Enqueued by bob" in site.text("/job", uid=uids["cancelled"])
    assert "Jobs before it 0" in site.text("/job", uid=uids["waiting"])
    shop.backend.pause("mail", "ann")
    assert "its queue 'mail' was paused by ann at" in site.text("/job", uid=uids["waiting"])


def test_job_that_is_unknown_is_a_page_of_its_own(site):
    assert "No such job" in site.get("/job?uid=nothing", status=404).text
    assert "No such job" in site.get("/job", status=404).text
    assert site.post("/job/retry", uid="nothing").status_int == 404


def test_call_that_cannot_be_read_is_said(tmp_path):
    with JobQueue("sql", threads=0, url=sqlite_with_tables(tmp_path), secret="one") as queue:
        uid = Jobs(queue).waiting()
        with queue.backend._dialect.engine.begin() as connection:
            jobs = queue.backend.tables.jobs
            connection.execute(update(jobs).values(payload="damaged"))

        assert "They cannot be read here: " in Site(queue).text("/job", uid=uid)


def test_job_is_retried_and_cancelled_by_its_buttons(site, shop, queue):
    uids = shop.open()

    retry = site.get("/job", {"uid": uids["failed"]}).html.find("form", action="/jobs/job/retry")
    fields = {each["name"]: each["value"] for each in retry.find_all("input")}
    answer = site.post("/job/retry", headers={}, **fields)
    assert answer.location == f"/jobs/job?uid={uids['failed']}"
    assert queue.result(uids["failed"]).status is READY

    page = f"http://shop.example/jobs/job?uid={uids['waiting']}"
    answer = site.post("/cancel", {**SAME_ORIGIN, "Referer": page}, uid=uids["waiting"])
    assert answer.location == page.removeprefix("http://shop.example")
    assert queue.result(uids["waiting"]).status is CANCELLED


def test_retry_of_a_job_that_has_not_ended_changes_nothing(site, shop, queue):
    uid = shop.open()["waiting"]

    assert site.post("/job/retry", uid=uid).status_int == 303
    assert queue.result(uid).attempts == 0


# -- queues


def test_queue_is_paused_in_the_name_of_the_user_and_resumed(site, shop, queue):
    shop.add()

    assert site.post("/queues/pause", of="mail").location == "/jobs/queues"
    [paused] = queue.paused()
    assert (paused.queue_name, paused.user) == ("mail", "manager")
    assert "paused just now by manager" in site.text("/queues")
    assert shop.backend.claim(shop.worker, None, 1) == []

    site.post("/queues/resume", of="mail")
    assert queue.paused() == []
    assert site.rows("/queues") == [
        ["mail", "1", "just now", "0", "-", "0", "no", "Pause"],
        ["default", "0", "-", "0", "-", "0", "no", "Pause"],
    ]


def test_queue_that_a_worker_serves_is_paused_before_a_job_waits_in_it(site, shop, queue):
    queues = ("pictures", "mail")
    if shop.backend.is_shared:
        shop.backend.register(WorkerId("web2-4712-5f3b"), queues, 1)

    assert [row[0] for row in site.rows("/queues")] == (
        ["default", "mail", "pictures"] if shop.backend.is_shared else ["default"]
    )
    site.post("/queues/pause", of="default")
    assert [each.queue_name for each in queue.paused()] == ["default"]
    assert "Nothing waits." not in site.text("/")  # a pause is shown


def test_delayed_jobs_are_counted_with_the_time_of_the_first(site, shop):
    shop.add(after=timedelta(hours=3))
    shop.add(after=timedelta(hours=2))

    row, _default = site.rows("/queues")

    assert row[:4] == ["mail", "0", "-", "2"]
    assert row[4] in ("in 2 h", "in 119 min", "in 1 h")


@pytest.mark.parametrize("name", ["", "x" * 65, "a%00b", "%00"])
def test_name_that_no_queue_can_have_is_refused(site, queue, name):
    assert site.post("/queues/pause", of=name).status_int == 400
    assert site.post("/queues/resume", of=name).status_int == 400
    assert queue.paused() == []


def test_queue_with_a_name_of_an_earlier_release_is_paused_and_resumed(site, queue):
    name = "m\xe4il, 100%\u202e\n<b>"
    queue.backend.pause(name, None)

    form = site.get("/queues").html.find("form", action="/jobs/queues/resume")
    fields = {each["name"]: each["value"] for each in form.find_all("input")}

    site.post("/queues/resume", **fields)
    assert queue.paused() == []
    site.post("/queues/pause", **fields)
    assert [each.queue_name for each in queue.paused()] == [name]


# -- failures


def test_failures_are_grouped_by_task_error_and_place(site, shop, queue):
    shop.open()

    rows = site.rows("/failures")

    assert [row[1] for row in rows] == ["4", "1"]
    assert "ConnectionRefusedError: [Errno 111] Connection refused" in rows[0][0]
    assert "shop/model/money.py:7 in total" in rows[0][0]
    assert "5 jobs failed within the last day." in site.text("/failures")
    link = site.get("/failures").html.select_one("tbody a")["href"]
    assert len(site.app.get(link).html.select("tbody tr")) == 4


def test_group_is_retried_as_it_is_then_and_says_how_many(site, shop, queue):
    shop.open()
    forms = site.get("/failures").html.find_all("form", action="/jobs/failures/retry")
    fields = {each["name"]: each["value"] for each in forms[0].find_all("input")}

    answer = site.post("/failures/retry", **fields)

    assert answer.location == "/jobs/failures?retried=4"
    assert "4 jobs were enqueued again." in site.app.get(answer.location).html.main.text
    counts = queue.backend.counts()
    assert (counts[FAILED], counts[READY]) == (1, 6)
    assert site.post("/failures/retry", **fields).location.endswith("?retried=0")
    assert site.post("/failures/retry", of="other").location.endswith("?retried=0")


def test_only_the_newest_failures_are_grouped_and_that_is_said(site, shop, monkeypatch, queue):
    monkeypatch.setattr("tgext.asyncjob.web.failures_page.MOST_LISTED", 2)
    shop.open()

    assert "The newest 2 failures of the last day; there are more." in site.text("/failures")
    assert all(row[1].endswith("+") for row in site.rows("/failures"))


@pytest.mark.parametrize("given", ["x", "-1", "1" * 9, "<b>", "\u0663"])
def test_number_of_retried_jobs_is_only_a_number(site, given):
    assert "enqueued again" not in site.text("/failures", retried=given)


def test_failures_of_another_day_are_not_shown(tmp_path):
    with JobQueue("sql", threads=0, url=sqlite_with_tables(tmp_path)) as queue:
        Shop(queue).fail()
        jobs = queue.backend.tables.jobs
        with queue.backend._dialect.engine.begin() as connection:
            connection.execute(update(jobs).values(finished_at=jobs.c.finished_at - 90_000))

        assert "0 jobs failed" in Site(queue).text("/failures")


# -- workers


def test_workers_are_shown_with_what_they_run(site, shop, queue):
    shop.open()

    text = site.text("/workers")

    assert "resize_pictures_of_a_whole_album_and_tell_its_owner , since just now : 25 %" in text
    if queue.backend.is_shared:
        assert "web1-4711-5f3a" in text
        assert "with 4 threads" in text
        assert "Queues all" in text


# -- limits


def test_limits_are_shown_with_what_runs_and_waits_the_full_ones_first(site, queue):
    assert "No job that waits or runs has a limit or a rate" in site.text("/limits")
    queue.limit("mail", 1)
    limited, rated = Keys(Limit("z.full", 1)), Keys(rate=Rate("rate:a", 2, 60.0))
    of_mail = TaskOptions(queue_name="mail")
    jobs = [Job(queue.backend.new_uid(), Call(len, ("a",), None), of_mail) for _ in range(3)]
    keys = (limited, limited, rated)
    queue.backend.enqueue([job._replace(keys=its) for job, its in zip(jobs, keys, strict=True)])
    assert len(queue.backend.claim(WorkerId("w"), ["mail"], 5)) == 1

    assert site.rows("/limits") == [
        ["z.full full", "1 at once", "1", "1", "1", "when one ends"],
        ["rate:a", "2 in 1m 0s", "1", "0", "0", "now"],
        ["mail full", "1", "1"],
    ]


def test_owners_who_take_turns_are_shown_by_how_many_jobs_of_theirs_wait(site, queue):
    mail, urgent = TaskOptions(queue_name="mail"), TaskOptions(queue_name="mail", priority=5)

    def enqueue(owner: str, options: TaskOptions) -> None:
        call = Call(len, ("a",), None)
        share = share_of(True, call, "mail", options.priority, owner)
        job = Job(queue.backend.new_uid(), call, options, keys=Keys(share=share))
        queue.backend.enqueue([job])

    for owner in ("ann", "bob", "ann", "bob", "bob"):
        enqueue(owner, mail)
    for owner in ("<b>", "ann"):
        enqueue(owner, urgent)
    queue.backend.claim(WorkerId("w"), ["nothing"], 1)  # so that the turns are settled

    assert site.rows("/limits") == [
        ["@bob", "mail", "0", "3"],
        ["@ann", "mail", "0", "1"],
        ["@ann", "mail", "5", "1"],
    ]
    assert site.rows("/queues")[0][1:6] == ["2", "just now", "0", "-", "5"]
    assert "No job" not in site.text("/limits")


def test_limits_of_many_keys_and_owners_say_that_there_may_be_more(site, queue):
    options, call = TaskOptions(queue_name="mail"), Call(len, ("a",), None)
    jobs = []
    for number in range(MOST_KEYS + 2):
        share = share_of(True, call, "mail", 0, f"user{number:03}")
        for keys in (Keys(Limit(f"key{number:03}", 1)), Keys(share=share), Keys(share=share)):
            jobs.append(Job(queue.backend.new_uid(), call, options, keys=keys))
    queue.backend.enqueue(jobs)
    queue.backend.claim(WorkerId("w"), ["nothing"], 1)  # so that the turns are settled
    seen: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        text = site.text("/limits")
    finally:
        event.remove(Engine, "before_cursor_execute", count)

    assert "Only the first 200 keys by name are shown; there may be more." in text
    assert "Only 200 owners are shown" in text
    assert len(seen) <= 12
    assert len(site.rows("/limits")) == 2 * MOST_KEYS


# -- schedules


def test_schedule_is_shown_paused_run_and_deleted(site, queue):
    name = "a/b?c#d% <b>"
    made = queue.schedule(name, len, ["abc"], cron="30 2 * * *", timezone="Europe/Berlin")
    of = quote(name, safe="")
    [row] = site.rows("/schedules")
    assert row[:2] + row[3:] == [name, "30 2 * * * Europe/Berlin", "active", "Pause"]

    assert site.post("/schedules/pause", of=of).status_int == 303
    assert made.refresh()
    assert (made.is_paused, made.paused_by) == (True, "manager")
    assert "it is paused by manager" in site.text(f"/schedule?of={quote(of)}")
    site.post("/schedules/resume", of=of)
    answer = site.post("/schedules/run", of=of)
    [tick] = made.ticks()
    text = site.get(answer.location.partition("/jobs")[2]).html.main.text
    assert tick.uid in text
    assert "run now" in text
    assert site.post("/schedules/delete", of=of).status_int == 303
    assert "There are no schedules." in site.text("/schedules")


def test_declared_schedule_has_no_button_to_delete_it(site, queue):
    new = NewSchedule("d", Call(len, ("",), None), DEFAULT_OPTIONS, Recurrence("@daily"), True)
    queue.backend.schedules.declare([new])

    assert site.get("/schedule?of=d").html.find("form", action="/jobs/schedules/delete") is None
    assert "which @task declares" in site.post("/schedules/delete", of="d").text
    assert [each.name for each in queue.schedules()] == ["d"]


@pytest.mark.parametrize("of", ["", "x" * 256, "a%00b", "nothing"])
def test_schedule_that_is_not_there_is_unknown(site, of):
    assert site.get(f"/schedule?of={of}", status="*").status_int == 404
    assert site.post("/schedules/pause", of=of).status_int == 404


# -- requests from elsewhere, to each form

POSTS = {
    "/job/retry": ("uid", lambda queue, uid: queue.result(uid).status is READY),
    "/failures/retry": ("of", lambda queue, uid: queue.result(uid).status is READY),
    "/queues/pause": ("of", lambda queue, _uid: bool(queue.paused())),
    "/queues/resume": ("of", lambda queue, _uid: not queue.paused()),
    "/schedules/pause": ("of", lambda queue, _uid: queue.schedules()[0].is_paused),
    "/schedules/resume": ("of", lambda queue, _uid: not queue.schedules()[0].is_paused),
    "/schedules/run": ("of", lambda queue, _uid: bool(queue.schedules()[0].ticks())),
    "/schedules/delete": ("of", lambda queue, _uid: not queue.schedules()),
    "/jobs/change": ("of", lambda queue, uid: queue.result(uid).status is READY),
    "/jobs/all": ("of", lambda queue, _uid: queue.backend.counts()[READY] == 1),
}


def test_every_form_is_tried_from_elsewhere() -> None:
    # /cancel is in test_web_rights.py
    assert {*POSTS, "/cancel"} == {route.path for route in ROUTES if route.method == "POST"}


def about_of(queue: JobQueue, path: str, uid: str) -> str:
    """What the form of a path names."""
    if path == "/failures/retry":
        form = Site(queue).get("/failures").html.find("form", method="post")
        return str(form.find("input", attrs={"name": "of"})["value"])
    if path == "/jobs/all":
        later = datetime.now(timezone.utc) + timedelta(days=1)
        frozen_jobs = bulk.frozen(queue, JobFilter.of(FAILED), later)
        return quote(json.dumps({"action": "retry", "filter": frozen_jobs.as_json()}), safe="")
    return {"/job/retry": uid, "/jobs/change": "selection"}.get(path, "mail")


@pytest.mark.parametrize("path", POSTS)
def test_request_from_elsewhere_changes_nothing(path):
    field, has_happened = POSTS[path]
    for (headers, bare, signed), token in itertools.product(ORIGINS, (False, True)):
        with JobQueue(threads=0, secret="swordfish") as queue:
            shop, site = Shop(queue), Site(queue)
            uid = shop.fail()
            if path == "/queues/resume":
                queue.pause("mail")
            schedule = queue.schedule("mail", len, [""], every=timedelta(hours=1))
            if path == "/schedules/resume":
                schedule.pause()
            about = about_of(queue, path, uid)
            fields = {field: about, "job": uid, "action": "retry"}
            if token:
                fields["token"] = Tokens(queue).sign("post", path, about, "manager")

            answer = site.post(path, headers, **fields)

            expected = signed if token else bare
            assert answer.status_int == (303 if expected else 403), (headers, token)
            assert has_happened(queue, uid) is expected, (headers, token)


@pytest.mark.parametrize("path", POSTS)
def test_token_of_another_form_or_user_is_none(path):
    field, has_happened = POSTS[path]
    with JobQueue(threads=0, secret="swordfish") as queue:
        uid = Shop(queue).fail()
        if path == "/queues/resume":
            queue.pause("mail")
        schedule = queue.schedule("mail", len, [""], every=timedelta(hours=1))
        if path == "/schedules/resume":
            schedule.pause()
        about = about_of(queue, path, uid)
        tokens = Tokens(queue)
        for token in (
            tokens.sign("post", path, about, "ann"),
            tokens.sign("post", path, "other", "manager"),
            tokens.sign("post", "/cancel", about, "manager"),
        ):
            answer = Site(queue).post(path, {}, **{field: about, "token": token, "job": uid,
                                                     "action": "retry"})  # fmt: skip
            assert answer.status_int == 403
        assert not has_happened(queue, uid)


@pytest.mark.parametrize("path", [path for path in POSTS if path != "/jobs/all"])  # has a page
def test_form_answers_to_post_only(site, path):
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        answer = ask(site.app, method, path, "manager")

        assert (method, answer.status_int, answer.headers["Allow"]) == (method, 405, "POST")


# -- many jobs


def chosen(site, *uids, action="retry", **fields):
    """Press a button of the list with some jobs chosen; gives the page that it leads to."""
    pairs = [("job", uid) for uid in uids] + list({"action": action, **fields}.items())
    return site.app.post(f"{BASE}/jobs/change", pairs, headers=SAME_ORIGIN).follow()


def test_selected_jobs_are_retried_together(queue, site, shop):
    uids = shop.open()

    page = chosen(site, uids["failed"], uids["cancelled"], uids["running"], status="FAILED")

    assert page.request.params["status"] == "FAILED"
    assert "2 jobs were enqueued again. The status of 1 other does not allow it." in page
    assert {queue.result(uids[each]).status for each in ("failed", "cancelled")} == {READY}
    both = f"{uids['failed']} {uids['cancelled']} {uids['running']}"
    record = queue.audit()[0]
    assert record[2:] == ("manager", "page", "retry", f"3 selected jobs: {both}", 2, "done")


def test_selected_jobs_are_cancelled_together(queue, site, shop):
    uids = shop.open()

    page = chosen(site, uids["waiting"], uids["done"], action="cancel")

    assert "1 job was cancelled. The status of 1 other does not allow it." in page
    assert queue.result(uids["waiting"]).status is CANCELLED


def test_button_without_a_selection_says_so(queue, site, shop):
    shop.open()

    assert "No job is selected." in chosen(site)
    assert queue.audit() == []
    too_many = [("job", str(number)) for number in range(201)]
    for wrong in ([("action", "purge")], [], [*too_many, ("action", "retry")]):
        assert site.app.post(f"{BASE}/jobs/change", wrong, headers=SAME_ORIGIN, status=400)


@pytest.mark.parametrize("fields", [{"status": "READY"}, {"status": "RUNNING"}, {}], ids=str)
def test_what_cannot_be_done_with_a_list_is_not_offered(site, shop, fields):
    shop.open()

    offered = [link.text for link in site.get("/jobs", fields).html.select("a.button")]

    assert offered == ["Retry all that match", "Cancel all that match"][bool(fields) :]


def confirmed(site, **fields):
    """The page that asks whether all jobs of a filter are to be changed, and its form."""
    page = site.get("/jobs/all", fields)
    return page, page.html.select_one("form.action")


def test_all_that_match_are_counted_before_and_changed_by_a_job_and_none_that_came_later(
    queue, site, shop, monkeypatch
):
    monkeypatch.setattr(bulk, "CHANGED_AT_ONCE", 2)
    uids = shop.open()
    page, form = confirmed(site, action="retry", error="ConnectionRefusedError")
    later = shop.fail(queue_name="later")

    answer = site.post("/jobs/all", of=form.find("input", {"name": "of"})["value"])
    before = [queue.result(uids["failed"]).status, queue.result(later).status]
    queue.run_pending(1)

    assert "4 jobs will be enqueued again" in " ".join(page.html.main.text.split())
    assert form.button.text == "Retry 4 jobs"
    assert before == [FAILED, FAILED]
    assert [queue.result(uids["failed"]).status, queue.result(later).status] == [READY, FAILED]
    own = queue.result(answer.follow().request.params["uid"])
    assert (own.name, own.return_value) == (
        "tgext.asyncjob.bulk.change_all", {"changed": 4, "of": 4}
    )  # fmt: skip
    assert own.progress == (4, "4 jobs", 4)
    assert own.enqueued_by == "manager"
    told = "Enqueued by manager Request POST http://shop.example/jobs/jobs/all Uid"
    assert told in site.text("/job", uid=own.id)
    record = queue.audit()[0]
    assert (record.user, record.action, record.changed, record.result) == (
        "manager", "retry", 4, "4 of 4"
    )  # fmt: skip
    assert record.subject.startswith("status=FAILED error=ConnectionRefusedError until=20")


def test_count_that_was_not_finished_is_said_and_all_are_changed(queue, site, shop, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.web.change_page.LOOKED_AT", 2)
    monkeypatch.setattr("tgext.asyncjob.web.change_page.MOST_COUNTED", 2)
    shop.fail(queue_name="rare")
    for _ in range(4):
        shop.fail()
    page, form = confirmed(site, action="retry", error="ConnectionRefusedError")
    rare, _form = confirmed(site, action="retry", queue="rare")

    site.post("/jobs/all", of=form.find("input", {"name": "of"})["value"])
    queue.run_pending(1)

    text = " ".join(page.html.main.text.split())
    assert "At least 2 jobs will be enqueued again." in text
    assert "Counting ends after 2 jobs; the change goes on to all that match." in text
    assert form.button.text == "Retry all that match"
    assert queue.audit()[0].result == "5 of 5"
    if shop.backend.is_shared:  # memory looks at all
        text = " ".join(rare.html.main.text.split())
        assert "None of the jobs that were looked at is like that; others may be." in text
        assert "Counting ends after 2 jobs" in text


def test_job_that_changes_many_is_cancelled_like_any_other(queue, site, shop, monkeypatch):
    monkeypatch.setattr(bulk, "CHANGED_AT_ONCE", 1)
    shop.open()
    _page, form = confirmed(site, action="retry", status="FAILED")
    answer = site.post("/jobs/all", of=form.find("input", {"name": "of"})["value"])
    uid = answer.follow().request.params["uid"]
    change_many, changed = queue.backend.change_many, []

    def change(*given: Any) -> int:
        changed.append(change_many(*given))
        if len(changed) == 2:
            queue.result(uid).cancel()
        return changed[-1]

    monkeypatch.setattr(queue.backend, "change_many", change)
    monkeypatch.setattr("tgext.asyncjob.backends.sql.STANDING_SECONDS", 0)
    queue.run_pending(1)

    assert queue.result(uid).status is CANCELLED
    assert (queue.audit()[0].changed, queue.audit()[0].result) == (2, "cancelled after 2 of 5")


def test_job_that_changes_many_and_fails_says_so_in_the_audit(queue, site, shop, monkeypatch):
    monkeypatch.setattr(bulk, "CHANGED_AT_ONCE", 1)
    shop.open()
    _page, form = confirmed(site, action="retry", status="FAILED")
    site.post("/jobs/all", of=form.find("input", {"name": "of"})["value"])
    change_many, changed = queue.backend.change_many, []

    def change(*given: Any) -> int:
        if len(changed) == 2:
            raise RuntimeError("the disk is full")
        changed.append(change_many(*given))
        return changed[-1]

    monkeypatch.setattr(queue.backend, "change_many", change)
    queue.run_pending(1)

    assert (queue.audit()[0].changed, queue.audit()[0].result) == (2, "failed after 2 of 5")


#: A filter as a page sends it, but for the number.
FROZEN = (
    '{"action": "retry", "filter": {"status": ["FAILED"], "name": null, "queue_name": null, '
    '"user": null, "error": null, "since": null, "until": null, "highest": %s}}'
)


@pytest.mark.parametrize(
    "of",
    [
        *("", "x", "[]", "{}", '{"action": "purge", "filter": {}}', "[" * 3_000),
        *(FROZEN % each for each in ("1e999", 10**30, -1, "true", "null")),
    ],
    ids=range(11),
)
def test_filter_that_no_page_has_sent_is_refused(site, of):
    assert site.post("/jobs/all", of=of).status_int == 400


@pytest.mark.parametrize(
    "fields", [{}, {"action": "purge"}, {"action": "retry", "since": "x"},
               {"action": "retry", "status": "x"}]
)  # fmt: skip
def test_filter_that_is_none_is_refused(site, fields):
    assert site.get("/jobs/all", fields, status=400)


def test_nothing_that_matches_is_said(queue, site):
    page, form = confirmed(site, action="cancel", queue="mail")

    assert "No job is like that any more." in page
    assert form is None


# -- the audit


def test_what_is_done_in_the_pages_is_in_the_audit_the_last_first(queue, site, shop):
    uids = shop.open()
    before = site.text("/audit")
    site.post("/job/retry", uid=uids["failed"])
    site.post("/cancel", uid=uids["waiting"])
    site.post("/cancel", uid=uids["done"])
    [first, *_] = site.get("/failures").html.select("form.action")
    site.post("/failures/retry", of=first.find("input", {"name": "of"})["value"])
    site.post("/queues/resume", of="reports")
    site.post("/queues/pause", of="reports")

    assert "Nobody has done anything." in before
    assert [row[1:] for row in site.rows("/audit")] == [
        ["manager , by a page", "pause", "reports", "1", "done"],
        ["manager , by a page", "resume", "reports", "1", "done"],
        ["manager , by a page", "retry", "failures of dashboard_jobs.send_invoice with "
         "builtins.ConnectionRefusedError", "3", "done"],
        ["manager , by a page", "cancel", uids["done"], "0", "nothing to do"],
        ["manager , by a page", "cancel", uids["waiting"], "1", "done"],
        ["manager , by a page", "retry", uids["failed"], "1", "done"],
    ]  # fmt: skip


def test_name_of_a_queue_is_no_link_to_a_job(queue, site):
    queue.pause("asyncjob_mail", by="ann")
    queue.limit("asyncjob_mail", 3, by="ann")

    assert [row[2:4] for row in site.rows("/audit")] == [
        ["limit", "asyncjob_mail: 3"],
        ["pause", "asyncjob_mail"],
    ]
    assert not site.get("/audit").html.select("tbody a")


def test_audit_has_pages(queue, site, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.web.audit_page.ROWS", 2)
    for number in range(5):
        queue.pause(f"q{number}", by="ann")

    seen, path = [], "/audit"
    while path:
        page = site.get(path).html
        seen += [row.find_all("td")[2].get_text().strip() for row in page.select("tbody tr")]
        following = page.find("a", rel="next")
        path = following and following["href"].removeprefix(BASE)

    assert seen == ["q4", "q3", "q2", "q1", "q0"]
    for wrong in ("", "x", "-1", "9" * 30):
        assert site.get("/audit", {"before": wrong}, status=400)


# -- hostile text


def named_badly(*_args: Any, **_kwargs: Any) -> None:
    """Its name is replaced."""


def test_hostile_text_in_every_field_is_only_shown(queue, site):
    named_badly.__qualname__ = f"job{HOSTILE}"
    big = HOSTILE + "x" * 100_000
    shop = Shop(queue)
    error = TaskError(f"app.{HOSTILE}", big, REFUSED.traceback + big + HOSTILE.join("\n" * 200))
    uids = []
    for text in (HOSTILE, big):
        uid = shop.add(kwargs={"note": text, text: 1, "more": {text: [text]}}, user=text)
        shop.end(uid, Outcome(FAILED, error=error, log=(text,) * 100))
        other = shop.add(args=(text, text), user=text)
        shop.end(other, Outcome(SUCCESSFUL, result={text: text}))
        uids += [uid, other]
    shop.backend.pause(HOSTILE[:60].replace("\0", "").replace("\ud800", ""), HOSTILE)
    name = HOSTILE.replace("\0", "").replace("\r\n\x1b", "").replace("\u202e", "")
    schedule = queue.schedule("".join(filter(str.isprintable, name)), len, [big], cron="@daily")
    schedule.run_now()
    queue.result(uids[0]).retry(by=big)
    queue.result(uids[0]).cancel(by=HOSTILE)
    shop.backend.schedules.pause(schedule.name, big, act=Act(HOSTILE, HOSTILE[:20]))
    shop.backend.register(WorkerId(f"w{HOSTILE}".replace("\0", "")), None, 1)
    shop.start(shop.add(queue_name="bar"), 1, big, 3, queue_name="bar")
    paths = [*PAGES, *(f"/job?uid={uid}" for uid in uids), f"/schedule?of={quote(schedule.name)}",
             "/jobs/all?action=retry", "/jobs/all?action=cancel"]  # fmt: skip
    site = Site(queue, HOSTILE)  # who is logged in
    try:
        if not queue.backend.is_shared:
            uid = shop.add(named_badly)
            shop.end(uid, Outcome(FAILED, error=error))
            paths.append(f"/job?uid={uid}")
        for path in paths:
            check_harmless(site.get(path))
        for name in ("name", "queue", "user", "error", "status", "since", "after"):
            check_harmless(site.get("/jobs", {name: HOSTILE}, status="*"))
            check_harmless(site.get("/jobs", {name: big[:5000]}, status="*"))
            check_harmless(site.get("/jobs/all", {name: HOSTILE, "action": "retry"}, status="*"))
        for path, name in (("/audit", "before"), ("/schedule", "of"), ("/job", "uid"),
                           ("/failures", "retried"), ("/jobs/all", "action"), ("/jobs", "did"),
                           ("/jobs", "changed")):  # fmt: skip
            check_harmless(site.get(path, {name: HOSTILE}, status="*"))
            check_harmless(site.get(path, {name: big[:5000]}, status="*"))
        for path in POSTS:
            fields = dict.fromkeys(("of", "uid", "job", "action", "token", "status"), HOSTILE)
            check_harmless(site.app.post(f"{BASE}{path}", fields, headers=SAME_ORIGIN, status="*"))
    finally:
        named_badly.__qualname__ = "named_badly"


def check_harmless(answer: Any) -> None:
    """No character of a hostile text does anything."""
    text = answer.text
    assert [each for each in FORBIDDEN if each in text] == []
    page = answer.html
    assert [each for each in page.find_all("script") if not each["src"].startswith("/jobs/")] == []
    assert [each for each in page.find_all(True) for name in each.attrs if name[:2] == "on"] == []
    assert len(text) < 500_000


# -- each database


@pytest.mark.parametrize("kind", KINDS)
def test_pages_read_each_database(kind, tmp_path):
    with place_of(kind, tmp_path) as place:
        queue = place.other_queue()
        shop, site = Shop(queue), Site(queue)
        uids = shop.open()
        shop.add(after=timedelta(hours=3))

        text = site.text("/")
        assert "Waiting 3 Running 1 Done 1 Failed 5 Cancelled 1" in text
        assert "Waiting longest: dashboard_jobs.send_invoice , enqueued just now" in text
        assert [row[1] for row in site.rows("/failures")] == ["4", "1"]
        assert site.rows("/queues")[0][:4] == ["reports", "1", "just now", "0"]
        assert len(site.rows("/jobs", user="ann", since="1h")) == 8
        for uid in uids.values():
            site.get("/job", {"uid": uid})
        for name in ("name", "queue", "user", "error"):
            check_harmless(site.get("/jobs", {name: HOSTILE}))


# -- cost


#: Lists by each way to find their jobs, and by several.
LISTS = (
    "/jobs?status=READY", "/jobs?status=READY&user=ann", "/jobs?status=FAILED", "/jobs?name=x",
    "/jobs?queue=mail", "/jobs?error=X", "/jobs?since=1h", "/jobs?since=1h&user=ann&error=X",
    "/jobs?name=x&since=1h", "/jobs/all?action=retry", "/jobs/all?action=cancel",
    "/jobs/all?action=cancel&queue=mail&user=ann&since=1h",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_page_needs_few_statements_however_many_priorities_are_in_use(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.web.jobs_page.LOOKED_AT", 40)
    monkeypatch.setattr("tgext.asyncjob.web.change_page.LOOKED_AT", 40)
    with place_of(kind, tmp_path) as place:
        queue = place.other_queue()
        shop, site = Shop(queue), Site(queue)
        uids = shop.open()
        for number in range(-15, 15):
            shop.add(priority=number)
            shop.add(priority=number, keys=Keys(Limit("full", 1)))
        uids |= {f"other {name}": uid for name, uid in Jobs(queue).of_each_state().items()}
        seen: list[str] = []
        here = threading.get_ident()  # another thread notifies of what was enqueued

        def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if threading.get_ident() == here:
                seen.append(statement)

        event.listen(Engine, "before_cursor_execute", count)
        try:
            for path in (*PAGES, *LISTS, *(f"/job?uid={uid}" for uid in uids.values())):
                seen.clear()
                site.get(path, status="*")
                assert 1 <= len(seen) <= MOST_STATEMENTS, (path, len(seen), seen)
        finally:
            event.remove(Engine, "before_cursor_execute", count)


def test_static_files_are_small_and_plain() -> None:
    script = (FOLDER / "dashboard.js").read_text(encoding="utf-8")
    style = (FOLDER / "dashboard.css").read_text(encoding="utf-8")

    assert len(script.encode()) <= 8_000
    assert len(style.encode()) <= 20_000
    assert "innerHTML =" not in script
    assert "eval" not in script
    plain = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    selectors = [each.strip() for each in re.findall(r"[^{}]+(?=\{)", plain)]
    assert [
        each for each in selectors if not each.startswith((".asyncjob-dashboard", "@media"))
    ] == []


def test_pages_do_not_depend_on_what_turbogears_makes_of_kajiki(site, monkeypatch):
    def outside_a_request(_text: str) -> str:
        raise TypeError("no object has been registered for this thread")

    monkeypatch.setattr("kajiki.i18n.gettext", outside_a_request)

    for path in PAGES:
        assert site.get(path).status_int == 200
    site.get("/nothing", status=404)
