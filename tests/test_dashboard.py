"""The pages of the dashboard, asked over HTTP: what they show, and what their forms do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import Engine, event, update

from dashboard_jobs import REFUSED, Shop
from databases import url_of
from sqlqueues import KINDS, place_of
from test_web_rights import ORIGINS, ask
from tgext.asyncjob import JobQueue
from tgext.asyncjob.job import CANCELLED, FAILED, READY, SUCCESSFUL, Outcome, TaskError
from tgext.asyncjob.web import Rights
from tgext.asyncjob.web.statics import FOLDER
from tgext.asyncjob.web.tokens import Tokens
from webpages import BASE, FORBIDDEN, HOSTILE, SAME_ORIGIN, Jobs, app_of

PAGES = ("/", "/jobs", "/failures", "/queues", "/workers")

#: Statements of a page, at most.
MOST_STATEMENTS = 12


@pytest.fixture(params=["memory", "sql"])
def queue(request: Any, tmp_path: Path) -> Iterator[JobQueue]:
    options = {"url": url_of("sqlite", tmp_path)} if request.param == "sql" else {}
    with JobQueue(request.param, threads=0, secret="swordfish", **options) as made:
        yield made


@pytest.fixture
def shop(queue: JobQueue) -> Shop:
    return Shop(queue)


class Site:
    """The pages, as a manager sees them."""

    def __init__(self, queue: JobQueue, user: str | None = "manager") -> None:
        self.app = app_of(queue)
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


@pytest.mark.parametrize("path", PAGES)
def test_page_has_a_language_a_title_landmarks_and_where_it_is(site, shop, path):
    shop.open()

    page = site.get(path).html

    assert page.html["lang"] == "en"
    assert page.title.text == f"{page.h1.text} - Jobs"
    assert len(page.find_all("main")) == len(page.find_all("h1")) == 1
    assert page.find("a", class_="skip")["href"] == "#content"
    assert page.main["id"] == "content"
    assert [link.text for link in page.nav.find_all("a", attrs={"aria-current": "page"})] == [
        page.h1.text
    ]


@pytest.mark.parametrize("path", [*PAGES, "/job"])
def test_page_has_no_inline_script_style_or_handler(site, shop, path):
    uid = shop.open()["failed"]

    for each in site.get(path, {"uid": uid}).html.find_all(True):
        assert not [name for name in each.attrs if name.startswith("on") or name == "style"]
        assert each.name != "style"
        assert each.name != "script" or (each["src"] and not each.text)


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
    assert site.get("").location == "http://shop.example/jobs/"


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
    assert "reports paused 1 0" in text
    assert "mail 1 0" in text
    assert "resize_pictures_of_a_whole_album_and_tell_its_owner 25 % just now 1" in text
    if queue.backend.is_shared:
        assert "Waiting longest: dashboard_jobs.send_invoice , enqueued just now" in text
        assert "1 alive , with 4 threads." in text
    else:
        assert "Jobs are those of this process" in text


def test_big_number_is_capped(site, shop, monkeypatch):
    monkeypatch.setattr("tgext.asyncjob.web.dashboard.MOST_COUNTED", 2)
    monkeypatch.setattr("tgext.asyncjob.web.overview_page.MOST_COUNTED", 2)
    shop.open()

    assert "Failed 2+" in site.text("/")


def test_queue_that_no_worker_serves_comes_first_and_is_marked(tmp_path):
    with JobQueue("sql", threads=0, url=url_of("sqlite", tmp_path)) as queue:
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
    with JobQueue("sql", threads=0, url=url_of("sqlite", tmp_path), secret="one") as queue:
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
    assert answer.location == f"http://shop.example/jobs/job?uid={uids['failed']}"
    assert queue.result(uids["failed"]).status is READY

    page = f"http://shop.example/jobs/job?uid={uids['waiting']}"
    answer = site.post("/cancel", {**SAME_ORIGIN, "Referer": page}, uid=uids["waiting"])
    assert answer.location == page
    assert queue.result(uids["waiting"]).status is CANCELLED


def test_retry_of_a_job_that_has_not_ended_changes_nothing(site, shop, queue):
    uid = shop.open()["waiting"]

    assert site.post("/job/retry", uid=uid).status_int == 303
    assert queue.result(uid).attempts == 0


# -- queues


def test_queue_is_paused_in_the_name_of_the_user_and_resumed(site, shop, queue):
    shop.add()

    assert site.post("/queues/pause", of="mail").location == "http://shop.example/jobs/queues"
    [paused] = queue.paused()
    assert (paused.queue_name, paused.user) == ("mail", "manager")
    assert "paused just now by manager" in site.text("/queues")
    assert shop.backend.claim(shop.worker, None, 1) == []

    site.post("/queues/resume", of="mail")
    assert queue.paused() == []
    assert site.rows("/queues") == [["mail", "1", "0", "-", "no", "Pause"]]


def test_delayed_jobs_are_counted_with_the_time_of_the_first(site, shop):
    shop.add(after=timedelta(hours=3))
    shop.add(after=timedelta(hours=2))

    [row] = site.rows("/queues")

    assert row[:3] == ["mail", "0", "2"]
    assert row[3] in ("in 2 h", "in 119 min", "in 1 h")


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

    assert answer.location == "http://shop.example/jobs/failures?retried=4"
    assert "4 jobs were enqueued again." in site.app.get(answer.location).html.main.text
    counts = queue.backend.counts()
    assert (counts[FAILED], counts[READY]) == (1, 6)
    assert site.post("/failures/retry", **fields).location.endswith("?retried=0")
    assert site.post("/failures/retry", of="other").location.endswith("?retried=0")


def test_only_the_newest_failures_are_grouped_and_that_is_said(site, shop, monkeypatch, queue):
    monkeypatch.setattr("tgext.asyncjob.web.failures_page.MOST_LISTED", 2)
    shop.open()

    assert "The newest 2 failures of the last day; there are more." in site.text("/failures")


@pytest.mark.parametrize("given", ["x", "-1", "1" * 9, "<b>", "\u0663"])
def test_number_of_retried_jobs_is_only_a_number(site, given):
    assert "enqueued again" not in site.text("/failures", retried=given)


def test_failures_of_another_day_are_not_shown(tmp_path):
    with JobQueue("sql", threads=0, url=url_of("sqlite", tmp_path)) as queue:
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


# -- requests from elsewhere, to each form

POSTS = {
    "/job/retry": ("uid", lambda queue, uid: queue.result(uid).status is READY),
    "/failures/retry": ("of", lambda queue, uid: queue.result(uid).status is READY),
    "/queues/pause": ("of", lambda queue, _uid: bool(queue.paused())),
    "/queues/resume": ("of", lambda queue, _uid: not queue.paused()),
}


@pytest.mark.parametrize(("headers", "bare", "signed"), ORIGINS, ids=str)
@pytest.mark.parametrize("path", POSTS)
def test_request_from_elsewhere_changes_nothing(path, headers, bare, signed):
    field, has_happened = POSTS[path]
    for token in (False, True):
        with JobQueue(threads=0, secret="swordfish") as queue:
            shop, site = Shop(queue), Site(queue)
            uid = shop.fail()
            if path == "/queues/resume":
                queue.pause("mail")
            form = site.get("/failures").html.find("form", method="post")
            key = form.find("input", attrs={"name": "of"})["value"]
            about = {"/job/retry": uid, "/failures/retry": key}.get(path, "mail")
            fields = {field: about}
            if token:
                fields["token"] = Tokens(queue).sign("post", path, about, "manager")

            answer = site.post(path, headers, **fields)

            expected = signed if token else bare
            assert answer.status_int == (303 if expected else 403)
            assert has_happened(queue, uid) is expected


@pytest.mark.parametrize("path", POSTS)
def test_token_of_another_form_or_user_is_none(path):
    field, has_happened = POSTS[path]
    with JobQueue(threads=0, secret="swordfish") as queue:
        uid = Shop(queue).fail()
        if path == "/queues/resume":
            queue.pause("mail")
        about = uid if field == "uid" else "mail"
        tokens = Tokens(queue)
        for token in (
            tokens.sign("post", path, about, "ann"),
            tokens.sign("post", path, "other", "manager"),
            tokens.sign("post", "/cancel", about, "manager"),
        ):
            answer = Site(queue).post(path, {}, **{field: about, "token": token})
            assert answer.status_int == 403
        assert not has_happened(queue, uid)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_form_answers_to_post_only(site, path, method):
    answer = ask(site.app, method, path, "manager")

    assert (answer.status_int, answer.headers["Allow"]) == (405, "POST")


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
    paths = [*PAGES, *(f"/job?uid={uid}" for uid in uids)]
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
        assert site.rows("/queues")[0][:3] == ["reports", "1", "0"]
        assert len(site.rows("/jobs", user="ann", since="1h")) == 8
        for uid in uids.values():
            site.get("/job", {"uid": uid})
        for name in ("name", "queue", "user", "error"):
            check_harmless(site.get("/jobs", {name: HOSTILE}))


# -- cost


def test_page_needs_few_statements(tmp_path):
    with JobQueue("sql", threads=0, url=url_of("sqlite", tmp_path)) as queue:
        shop, site = Shop(queue), Site(queue)
        uids = shop.open()
        uids |= {f"other {name}": uid for name, uid in Jobs(queue).of_each_state().items()}
        seen: list[str] = []

        def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            seen.append(statement)

        event.listen(Engine, "before_cursor_execute", count)
        try:
            for path in (*PAGES, "/jobs?since=1h&user=ann&error=X", "/jobs?name=x&since=1h",
                         *(f"/job?uid={uid}" for uid in uids.values())):  # fmt: skip
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
