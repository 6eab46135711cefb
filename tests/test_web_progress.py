"""``GET progress`` and the buttons of an element, asked over HTTP."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import webtest
from bs4 import BeautifulSoup
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from clocks import FakeClock
from databases import sqlite_with_tables
from tgext.asyncjob import JobQueue, asyncjob_progress
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.job import CANCELLED, READY, RUNNING, TaskError
from tgext.asyncjob.web import Rights
from tgext.asyncjob.web.job_state import PHRASES, SENTENCES, before
from tgext.asyncjob.web.progress import MOST_JOBS
from tgext.asyncjob.web.statics import FOLDER
from tgext.asyncjob.web.tokens import Tokens
from tgext.asyncjob.web.visit import FORM
from webpages import FORBIDDEN, HOSTILE, SAME_ORIGIN, Jobs, app_of


@pytest.fixture(params=["memory", "sql"])
def queue(request: Any, tmp_path: Path) -> Iterator[JobQueue]:
    options = {"url": sqlite_with_tables(tmp_path)} if request.param == "sql" else {}
    with JobQueue(request.param, threads=0, secret="swordfish", **options) as made:
        yield made


@pytest.fixture
def jobs(queue: JobQueue) -> Jobs:
    return Jobs(queue)


@pytest.fixture
def app(queue: JobQueue) -> Any:
    return app_of(queue)


def asked(app: Any, *uids: str, **options: Any) -> Any:
    return app.get("/progress", [("uid", uid) for uid in uids], **options)


def test_every_state_has_its_name_and_its_status(app, jobs):
    uids = jobs.of_each_state()

    found = asked(app, *uids.values()).json["jobs"]

    assert [job["uid"] for job in found] == list(uids.values())
    assert [job["state"] for job in found] == list(uids) == list(SENTENCES)
    assert [job["status"] for job in found] == [
        "READY", "RUNNING", "READY", "RUNNING", "SUCCESSFUL", "FAILED", "CANCELLED", None,
    ]  # fmt: skip


def test_running_job_has_value_total_percent_text_and_ages(app, jobs):
    [job] = asked(app, jobs.running(1, "one", 3)).json["jobs"]

    assert (job["value"], job["total"], job["percent"], job["text"]) == (1, 3, 33, "one")
    assert (job["attempt"], job["error"], job["due_in"]) == (1, None, None)
    assert set(job["ages"]) == {"enqueued", "started", "attempted", "finished"}
    assert 0 <= job["ages"]["attempted"] <= job["ages"]["enqueued"] < 60
    assert job["ages"]["finished"] is None


@pytest.mark.parametrize(
    ("report", "shown"),
    [
        ((0, None, 0), (0, None, None)),
        ((5, None, -1), (5, None, None)),
        ((9, None, 4), (9, 4, 100)),
        ((-3, None, 4), (None, None, None)),
        ((4, None, None), (4, None, None)),
        ((10**18 - 1, None, 10**18), (10**18 - 1, 10**18, 99)),
    ],
)
def test_peculiar_report_is_shown_as_what_is_known(app, jobs, report, shown):
    value, data, total = report

    [job] = asked(app, jobs.running(value, data, total)).json["jobs"]

    assert (job["value"], job["total"], job["percent"]) == shown


def test_job_that_tries_again_says_in_how_many_seconds_and_why(app, jobs):
    [job] = asked(app, jobs.retrying(delay=60)).json["jobs"]

    assert 50 < job["due_in"] <= 60
    assert job["error"] == {"class": "app.Broken", "message": "three is not a colour"}
    assert job["value"] is None  # the next attempt begins anew


def test_waiting_job_says_how_many_are_before_it(app, jobs):
    uids = [jobs.waiting() for _ in range(3)]

    found = asked(app, *uids).json["jobs"]

    assert [job["queue_position"] for job in found] == [0, 1, 2]
    assert [said_in_the_page(jobs, uid) for uid in uids] == [
        "Waiting", "Waiting, 1 job before it", "Waiting, 2 jobs before it"
    ]  # fmt: skip


def test_running_job_says_how_long_it_will_take():
    clock = FakeClock()
    with JobQueue(MemoryBackend(clock=clock), threads=0) as queue:
        see_the_time_left(app_of(queue), Jobs(queue), clock)


def see_the_time_left(app, jobs, clock):
    uid = jobs.running(0, None, 100)
    early = asked(app, uid).json["jobs"][0]["eta_seconds"]
    for value in (10, 20, 30):
        clock.advance(10)
        jobs.report(uid, value, None, 100)
    clock.advance(5)

    answer = asked(app, uid)

    assert early is None
    assert answer.json["jobs"][0]["eta_seconds"] == 65
    assert said_in_the_page(jobs, uid) == "Running 30 %, about 90 s left"
    clock.advance(1)  # what has only passed changes no ETag, but that it is not known any more
    assert asked(app, uid).headers["ETag"] == answer.headers["ETag"]
    clock.advance(60)
    assert asked(app, uid).json["jobs"][0]["eta_seconds"] is None
    assert asked(app, uid).headers["ETag"] != answer.headers["ETag"]


def said_in_the_page(jobs, uid):
    with jobs.queue.as_current():
        page = BeautifulSoup(str(asyncjob_progress(uid)), "html.parser")
    return " ".join(page.find(class_="asyncjob-said").text.split())


def test_delayed_job_waits_and_says_how_long(app, jobs):
    [job] = asked(app, jobs.waiting(run_after=timedelta(hours=2))).json["jobs"]

    assert (job["state"], round(job["due_in"], -2)) == ("waiting", 7200)


def test_answer_never_has_arguments_tracebacks_or_results(app, jobs):
    text = asked(app, *jobs.of_each_state().values()).text

    assert "secret" not in text


def test_job_is_asked_for_by_a_get_that_changes_nothing(app, jobs, queue):
    uids = jobs.of_each_state()
    before = queue.backend.counts()

    asked(app, *uids.values())
    app.head("/progress", [("uid", uids["running"])])

    assert queue.backend.counts() == before


@pytest.mark.parametrize("number", [0, MOST_JOBS + 1])
def test_too_few_or_too_many_jobs_are_refused(app, number):
    answer = asked(app, *[f"asyncjob_{n}" for n in range(number)], status=400)

    assert answer.json == {"error": f"expected uid={{uid}} 1 to 50 times, got {number}"}


def test_fifty_jobs_are_answered_in_the_order_of_the_query(app, jobs):
    uids = [jobs.waiting() for _ in range(MOST_JOBS)]

    found = asked(app, *reversed(uids)).json["jobs"]

    assert [job["uid"] for job in found] == uids[::-1]


@pytest.mark.parametrize(
    "uid", ["", "x" * 5000, "a\0b", "\u202e", "asyncjob_1_00000000_" + "0" * 32]
)
def test_what_is_no_uid_is_unknown(app, uid):
    [job] = asked(app, uid).json["jobs"]

    assert (job["state"], job["status"], job["attempt"]) == ("unknown", None, 0)


def test_damaged_query_is_refused(app):
    assert app.get("/progress?uid=%ff", status=400).content_type == "text/html"


def test_same_etag_is_answered_without_a_body_until_something_happens(app, jobs, queue):
    uid = jobs.running(1, "one", 3)
    first = asked(app, uid)
    same = asked(app, uid, headers={"If-None-Match": first.headers["ETag"]}, status=304)
    queue.results.cancel(uid)

    other = asked(app, uid, headers={"If-None-Match": first.headers["ETag"]})

    assert (same.body, same.headers["ETag"]) == (b"", first.headers["ETag"])
    assert other.json["jobs"][0]["state"] == "cancelling"
    assert other.headers["ETag"] != first.headers["ETag"]


def test_hostile_text_is_shown_without_what_it_would_do(app, jobs):
    error = TaskError(f"app.{HOSTILE}", HOSTILE * 1000, "")
    uids = [jobs.running(1, HOSTILE, 3), jobs.failed(error=error), HOSTILE]
    uids.append(jobs.running(1, {"text": HOSTILE + "x" * 100_000}, 3))

    answer = asked(app, *uids)

    running, failed, _unknown, long = answer.json["jobs"]
    for text in (running["text"], failed["error"]["class"], failed["error"]["message"]):
        assert not any(each in text for each in FORBIDDEN if each != "<script>alert")
        assert "\\u202eevil" in text
    assert len(failed["error"]["message"]) < 1000
    assert len(long["text"] or "") < 1000
    assert answer.content_type == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_owner_alone_sees_a_job_where_the_option_says_so(tmp_path):
    with JobQueue(threads=0, progress_access="owner") as queue:
        app, jobs = app_of(queue), Jobs(queue)
        uids = [jobs.running(user="ann"), jobs.running(user="bob"), jobs.running()]

        def states(user: str | None) -> list[str]:
            environ = {} if user is None else {"test.user": user}
            found = asked(app, *uids, extra_environ=environ).json["jobs"]
            return [job["state"] for job in found]

        assert states(None) == ["unknown"] * 3
        assert states("ann") == ["running", "unknown", "unknown"]
        assert states("eve") == ["unknown"] * 3
        assert states("reader") == states("manager") == ["running"] * 3


def test_rights_are_not_asked_for_where_the_uid_is_enough(queue, jobs):
    def never(_environ: Any) -> Rights:
        raise AssertionError("nobody asked for the rights")

    assert asked(app_of(queue, never), jobs.waiting()).status_int == 200


@pytest.mark.parametrize("base", ["", "/a/b", "/jobs"])
def test_urls_are_below_the_place_where_it_is_mounted(queue, jobs, base):
    app = app_of(queue, base=base)
    page = app.get("/reload", {"uid": jobs.running()})

    element = page.html.find("asyncjob-progress")

    assert element["data-url"] == base
    assert element.form["action"] == f"{base}/reload"
    assert element.script["src"].startswith(f"{base}/static/progress.js?v=")
    assert page.html.find("link")["href"].startswith(f"{base}/static/progress.css?v=")


# -- cancel


def cancel(app: Any, uid: str, user: str | None = None, token: str | None = None,
           status: int | None = None, **headers: str) -> Any:  # fmt: skip
    environ = {} if user is None else {"test.user": user}
    fields = {"uid": uid} | ({} if token is None else {"token": token})
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.post("/cancel", fields, headers=names, extra_environ=environ, status=status)


def token_of(queue: JobQueue, uid: str, user: str | None) -> str:
    return Tokens(queue).sign("post", "/cancel", uid, user)


class Tracker:
    """A progress tracker of the application's own, which says always the same."""

    def __init__(self, says: Any) -> None:
        self._says = says

    def get_progress(self, _uid: str) -> Any:
        if isinstance(self._says, Exception):
            raise self._says
        return self._says

    def track(self, _uid: str) -> None: ...


@pytest.mark.parametrize(
    ("says", "value"),
    [((3, "three"), 3), (None, None), ((), None), ((None, None), None), (("5", "x"), None),
     ((10**5000, None), None), (5, None), (ConnectionError("it is away"), None)],
    ids=range(8),
)  # fmt: skip
def test_tracker_of_the_application_breaks_no_page(says, value):
    with JobQueue(threads=0, progress_tracker=Tracker(says)) as queue:
        uid, app = queue.perform(print, "x"), app_of(queue)
        page = app.get(f"/job?uid={uid}", extra_environ={"test.user": "manager"})

        assert asked(app, uid).json["jobs"][0]["value"] == value
        assert page.html.find("asyncjob-progress")["data-state"] == "waiting"


def test_button_cancels_a_running_job(app, jobs, queue):
    uid = jobs.running()

    answer = cancel(app, uid, token=token_of(queue, uid, None), Accept="application/json",
                    **SAME_ORIGIN)  # fmt: skip

    assert answer.json == {"cancelled": True}
    assert queue.backend.briefs([uid])[uid].is_cancelled


def test_button_that_is_pressed_twice_or_too_late_is_harmless(app, jobs, queue):
    done, running = jobs.done(), jobs.running()
    asks = {"Accept": "application/json"}

    late = cancel(app, done, token=token_of(queue, done, None), **asks)
    twice = [cancel(app, running, token=token_of(queue, running, None), **asks) for _ in range(2)]

    assert late.json == {"cancelled": False}
    assert [answer.json for answer in twice] == [{"cancelled": True}] * 2


def test_form_without_javascript_leads_back_to_its_page(app, jobs, queue):
    uid = jobs.waiting()

    answer = cancel(app, uid, token=token_of(queue, uid, None), status=303,
                    Referer="http://shop.example/album?page=2#x")  # fmt: skip

    assert answer.location == "/album?page=2#x"
    assert queue.result(uid).status is CANCELLED


def test_form_without_a_referer_is_answered_with_a_page(app, jobs, queue):
    uid = jobs.waiting()

    page = cancel(app, uid, token=token_of(queue, uid, None))

    assert page.html.find("asyncjob-progress")["data-state"] == "cancelled"


def test_token_of_another_job_user_or_secret_does_not_cancel(app, jobs, queue):
    uid, other = jobs.running(user="ann"), jobs.running()
    with JobQueue(threads=0, secret="another") as stranger:
        tokens = [
            token_of(queue, other, "eve"),
            token_of(queue, uid, "ann"),
            token_of(queue, uid, None),
            token_of(stranger, uid, "eve"),
            Tokens(queue).sign("then", "/cancel", uid, "eve"),
            "",
            "\u2603",
            None,
        ]

    answers = [cancel(app, uid, "eve", token, 403, **SAME_ORIGIN) for token in tokens]

    assert {answer.status_int for answer in answers} == {403}
    assert queue.backend.briefs([uid])[uid].status is RUNNING
    assert not queue.backend.briefs([uid])[uid].is_cancelled


def test_get_cancels_nothing(app, jobs, queue):
    uid = jobs.waiting("ann")

    app.get("/cancel", {"uid": uid, "token": token_of(queue, uid, None)}, status=405)

    assert queue.result(uid).status is READY


def test_form_of_another_kind_and_a_long_one_change_nothing(app, jobs, queue):
    uid = jobs.waiting()
    fields = {"uid": uid, "token": token_of(queue, uid, None)}

    broken = app.post("/cancel", "x", content_type="multipart/form-data", status=403)
    files = app.post("/cancel", fields, upload_files=[("x", "x.txt", b"x")], status=403)
    as_json = app.post_json("/cancel", fields, status=403)
    latin, odd = (
        app.post("/cancel", fields, {"Content-Type": f"{FORM}; charset={name}"}, status=403)
        for name in ("latin-1", "nonsense")
    )
    long = app.post("/cancel", {**fields, "more": "x" * 70_000}, status=413)

    answers = (broken, files, as_json, latin, odd, long)
    assert {each.content_type for each in answers} == {"text/html"}
    assert queue.result(uid).status is READY


class Chunks:
    """A body that is sent in chunks; it ends after *left* bytes."""

    def __init__(self, content: bytes, left: int) -> None:
        self.content, self.left, self.read_bytes = content, left, 0

    def read(self, size: int = -1) -> bytes:
        number = self.left if size < 0 else min(size, self.left)
        self.left -= number
        self.read_bytes += number
        begin, self.content = self.content[:number], self.content[number:]
        return begin.ljust(number, b"x")


def test_body_in_chunks_is_read_as_far_as_any_other(app, jobs, queue):
    """A server that decodes them says that its input ends, but not where."""
    uid = jobs.waiting()
    form = urlencode({"uid": uid, "token": token_of(queue, uid, None)}).encode()
    for body, status in ((Chunks(form, 10**9), 413), (Chunks(form, len(form)), 200)):
        request = webtest.TestRequest.blank("/cancel", method="POST", accept="application/json")
        request.environ.update(app.extra_environ)
        request.environ |= {"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_TYPE": FORM}
        assert request.get_response(app.app).status_int == status
        assert body.read_bytes <= 70_000

    assert queue.result(uid).status is CANCELLED


# -- while the store cannot be reached


def test_store_that_does_not_answer_is_said_to_be_away_for_a_while(tmp_path):
    with JobQueue("sql", url=sqlite_with_tables(tmp_path), threads=0) as queue:
        app, uid = app_of(queue), Jobs(queue).waiting()
        backend: Any = queue.backend
        error = OperationalError("SELECT", {}, sqlite3.OperationalError("database is locked"))
        event.listen(backend._dialect.engine, "before_cursor_execute", raising(error))

        answer = asked(app, uid, status=503)

    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["Cache-Control"] == "no-store"


def raising(error: Exception) -> Any:
    def listener(*_given: Any) -> None:
        raise error

    return listener


# -- reload


def test_reload_leads_back_to_the_page_with_the_element(app, jobs):
    answer = app.get(
        "/reload", {"uid": jobs.running()}, headers={"Referer": "https://shop.example/a?b=c"}
    )

    assert answer.status_int == 303
    assert answer.location == "/a?b=c"


@pytest.mark.parametrize(
    "referer",
    [
        "",
        "http://evil.example/a",
        "http://shop.example.evil/a",
        "http://shop.example@evil.example/",
        "http://shop.example/jobs/reload?uid=x",
        "https://shop.example/jobs/reload?uid=x",
        "http://shop.example//evil.example/",
        "javascript:alert(1)",
        "http://[",
    ],
)
def test_reload_leads_to_no_other_place(app, jobs, referer):
    page = app.get("/reload", {"uid": jobs.running(1, "one", 4)}, headers={"Referer": referer})

    assert page.status_int == 200
    assert page.html.progress["value"] == "1"
    assert page.html.find("form", class_="asyncjob-reload")["action"] == "/jobs/reload"


def test_pages_need_no_translator_of_the_host(app, monkeypatch):
    """TurboGears sets the translator of all of Kajiki; it works in requests of its own only."""

    def translate(_text: str) -> str:
        raise TypeError("No object (name: context) has been registered for this thread")

    monkeypatch.setattr("kajiki.i18n.gettext", translate)

    assert "There is no page" in app.get("/no/such/page", status=404).text


def test_reload_of_a_job_that_is_done_goes_on_to_where_it_was_rendered_to(app, jobs, queue):
    done, running, failed = jobs.done(), jobs.running(), jobs.failed()

    def asks(uid: str, then: str, token: str | None = None) -> Any:
        token = token or Tokens(queue).sign("then", uid, then)
        return app.get("/reload", {"uid": uid, "then": then, "token": token})

    assert asks(done, "/album/3").location == "/album/3"
    assert asks(done, "/album/3").status_int == 303
    assert asks(running, "/album/3").status_int == 200
    assert asks(failed, "/album/3").status_int == 200
    assert asks(done, "/album/3", Tokens(queue).sign("then", done, "/x")).status_int == 200
    assert asks(done, "//evil.example/").status_int == 200
    assert asks(done, "http://evil.example/").status_int == 200


# -- the script


def test_script_is_small_and_has_the_same_sentences() -> None:
    script = (FOLDER / "progress.js").read_text(encoding="utf-8")
    listed = script.partition("const ENGLISH = {\n")[2].partition("};")[0]
    found = dict(
        line.strip().split(",  //")[0].rstrip(",").split(": ", 1) for line in listed.splitlines()
    )
    assert found.pop("forms").startswith('"10".padEnd(100, "1")')
    forms = json.loads(found.pop("before"))

    assert {name: json.loads(text) for name, text in found.items()} == {**SENTENCES, **PHRASES}
    assert [forms[number != 1] % {"number": number} for number in (1, 2)] == [before(1), before(2)]
    assert len(script.encode()) <= 10_000
    assert "innerHTML" not in script
    assert "eval" not in script
