"""Who may use which URL: each row of the table of routes x method x role, and each kind of origin.

A route that MATRIX does not know fails the first test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

import pytest
import webtest

from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.listing import JobFilter
from tgext.asyncjob.bulk import frozen
from tgext.asyncjob.job import FAILED
from tgext.asyncjob.web import Rights
from tgext.asyncjob.web.application import HEADERS
from tgext.asyncjob.web.routes import ROUTES, Right
from tgext.asyncjob.web.tokens import Tokens
from webpages import BASE, SAME_ORIGIN, Jobs, app_of

#: Nobody logged in, somebody, one who may see, one who may act, and who has enqueued the job.
ROLES = (None, "eve", "reader", "manager", "ann")

EVERYBODY = dict.fromkeys(ROLES, 200)
VIEWERS = {**dict.fromkeys(ROLES, 403), "reader": 200, "manager": 200}

#: The status for each role, of a job that ann has enqueued, without a button's token.
MANAGER = {**dict.fromkeys(ROLES, 403), "manager": 303}

MATRIX: dict[tuple[str, str], tuple[Right, dict[str | None, int]]] = {
    ("GET", "/progress"): (Right.UID, EVERYBODY),
    ("GET", "/reload"): (Right.UID, EVERYBODY),
    ("POST", "/cancel"): (Right.CANCEL, {**dict.fromkeys(ROLES, 403), "manager": 200, "ann": 200}),
    ("GET", "/static/progress.js"): (Right.ANYBODY, EVERYBODY),
    ("GET", ""): (Right.ANYBODY, dict.fromkeys(ROLES, 303)),
    ("GET", "/"): (Right.VIEW, VIEWERS),
    ("GET", "/jobs"): (Right.VIEW, VIEWERS),
    ("POST", "/jobs/change"): (Right.ACT, MANAGER),
    ("GET", "/jobs/all"): (Right.ACT, {**dict.fromkeys(ROLES, 403), "manager": 200}),
    ("POST", "/jobs/all"): (Right.ACT, MANAGER),
    ("GET", "/job"): (Right.VIEW, VIEWERS),
    ("POST", "/job/retry"): (Right.ACT, MANAGER),
    ("GET", "/failures"): (Right.VIEW, VIEWERS),
    ("POST", "/failures/retry"): (Right.ACT, MANAGER),
    ("GET", "/queues"): (Right.VIEW, VIEWERS),
    ("POST", "/queues/pause"): (Right.ACT, MANAGER),
    ("POST", "/queues/resume"): (Right.ACT, MANAGER),
    ("GET", "/schedules"): (Right.VIEW, VIEWERS),
    ("GET", "/schedule"): (Right.VIEW, VIEWERS),
    ("POST", "/schedules/pause"): (Right.ACT, MANAGER),
    ("POST", "/schedules/resume"): (Right.ACT, MANAGER),
    ("POST", "/schedules/run"): (Right.ACT, MANAGER),
    ("POST", "/schedules/delete"): (Right.ACT, MANAGER),
    ("GET", "/limits"): (Right.VIEW, VIEWERS),
    ("GET", "/workers"): (Right.VIEW, VIEWERS),
    ("GET", "/audit"): (Right.VIEW, VIEWERS),
    ("GET", "/static/progress.css"): (Right.ANYBODY, EVERYBODY),
    ("GET", "/static/dashboard.js"): (Right.ANYBODY, EVERYBODY),
    ("GET", "/static/dashboard.css"): (Right.ANYBODY, EVERYBODY),
}  # fmt: skip

LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PATHS = sorted({path for _, path in MATRIX})


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with JobQueue(threads=0) as made:
        yield made


def ask(app: Any, method: str, path: str, user: str | None, uid: str = "",
        headers: dict[str, str] | None = None, **fields: str) -> Any:  # fmt: skip
    environ = {**app.extra_environ, **({} if user is None else {"test.user": user})}
    query = urlencode({"uid": uid, **({} if method == "POST" else fields)})
    options: dict[str, Any] = {"environ": environ, "headers": headers or {}, "method": method}
    if method == "POST":
        options["POST"] = {"uid": uid, **fields}
    return app.do_request(webtest.TestRequest.blank(f"{BASE}{path}?{query}", **options), status="*")


def test_every_route_has_its_row_in_the_matrix() -> None:
    rows = {(route.method, route.path): route.right for route in ROUTES}

    assert rows == {row: right for row, (right, _) in MATRIX.items()}
    assert len(rows) == len(ROUTES)


@pytest.mark.parametrize("user", ROLES, ids=str)
@pytest.mark.parametrize("row", MATRIX, ids=" ".join)
def test_role_may_use_the_url_as_the_matrix_says(queue, row, user):
    method, path = row
    jobs = Jobs(queue)
    uid, failed = jobs.waiting("ann"), jobs.failed("ann")
    queue.schedule("default", len, ["x"], every=timedelta(hours=1))
    of = "default"
    if path == "/jobs/all" and method == "POST":
        of = json.dumps(
            {"action": "retry", "filter": frozen(queue, JobFilter.of(FAILED), LATER).as_json()}
        )
    before = everything(queue)

    answer = ask(app_of(queue), method, path, user, uid, SAME_ORIGIN, of=of, job=failed,
                 action="retry")  # fmt: skip

    expected = MATRIX[row][1][user]
    assert answer.status_int == expected
    if expected == 403:
        assert everything(queue) == before
        assert uid not in answer.text
        assert "dashboard" not in answer.text
        assert "work" not in answer.text  # the name of the job


def everything(queue: JobQueue) -> Any:
    """What the forms can change."""
    [schedule] = queue.schedules()
    jobs = [(job.id, job.status, job.attempts) for job in queue.jobs().results]
    return jobs, queue.paused(), queue.audit(), schedule.is_paused, schedule.ticks()


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/progress/", "/static/../x"])
@pytest.mark.parametrize("method", METHODS)
def test_every_answer_has_the_headers_and_other_methods_are_refused(queue, method, path):
    known = {"GET" if method == "HEAD" else method} & {m for m, p in MATRIX if p == path}
    if not known:  # whoever asks
        refused = 405 if path in PATHS else 404
        for user in ROLES:
            found = ask(app_of(queue), method, path, user, "asyncjob_x", SAME_ORIGIN)
            assert found.status_int == refused, user

    answer = ask(app_of(queue), method, path, None, "asyncjob_x", SAME_ORIGIN)

    if answer.status_int == 405:
        assert answer.headers["Allow"] == ", ".join(sorted(m for m, p in MATRIX if p == path))
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    if answer.status_int != 200 or "/static/" not in path:
        assert answer.headers["Cache-Control"] == "no-store"
    if method == "HEAD":
        assert answer.body == b""


def test_policy_of_content_is_the_strict_one() -> None:
    assert HEADERS["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )


@pytest.mark.parametrize("rights", [None, lambda _environ: None])
def test_without_rights_only_progress_by_uid_is_open(queue, rights):
    app, uid = app_of(queue, rights), Jobs(queue).waiting("ann")

    assert ask(app, "GET", "/progress", "manager", uid).json["jobs"][0]["state"] == "waiting"
    assert ask(app, "POST", "/cancel", "manager", uid, SAME_ORIGIN).status_int == 403


def test_rights_are_asked_for_once_and_only_where_they_are_needed() -> None:
    asked = []
    rights = Rights("ann", lambda: bool(asked.append("view")), lambda: bool(asked.append("act")))

    assert asked == []
    assert [rights.may_view, rights.may_view, rights.may_act] == [False, False, False]
    assert asked == ["view", "act"]
    assert Rights("ann", may_act=True).may_view


#: Headers of a request that changes something, and whether a manager's is believed without and
#: with the token of a page.
ORIGINS: list[tuple[dict[str, str], bool, bool]] = [
    ({"Sec-Fetch-Site": "same-origin"}, True, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, True, True),
    ({"Sec-Fetch-Site": "cross-site"}, False, False),
    ({"Sec-Fetch-Site": "same-site"}, False, False),
    ({"Sec-Fetch-Site": "none"}, False, False),
    ({"Sec-Fetch-Site": ""}, False, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://shop.example"}, False, False),
    ({"Origin": "http://shop.example"}, True, True),
    ({"Origin": "https://shop.example"}, True, True),
    ({"Origin": "http://shop.example:80"}, True, True),
    ({"Origin": "https://shop.example:443"}, True, True),
    ({"Origin": "HTTP://SHOP.EXAMPLE"}, True, True),
    ({"Origin": "http://shop.example:8080"}, False, False),
    ({"Origin": "http://shop.example.evil"}, False, False),
    ({"Origin": "http://evil.example/shop.example"}, False, False),
    ({"Origin": "http://shop.example@evil.example"}, False, False),
    ({"Origin": "null"}, False, False),
    ({"Origin": ""}, False, False),
    ({"Origin": "http://["}, False, False),
    ({}, False, True),
    ({"Referer": "http://shop.example/"}, False, True),
]


@pytest.mark.parametrize(("headers", "bare", "signed"), ORIGINS, ids=str)
def test_request_from_elsewhere_changes_nothing(queue, headers, bare, signed):
    app, jobs = app_of(queue), Jobs(queue)
    first, second = jobs.waiting(), jobs.waiting()
    token = Tokens(queue).sign("post", "/cancel", second, "manager")
    headers = {"Accept": "application/json", **headers}

    without = ask(app, "POST", "/cancel", "manager", first, headers)
    with_token = ask(app, "POST", "/cancel", "manager", second, headers, token=token)

    assert (without.status_int == 200, with_token.status_int == 200) == (bare, signed)
    assert (queue.result(first).is_finished, queue.result(second).is_finished) == (bare, signed)


def test_port_of_the_host_counts(queue):
    app, uid = app_of(queue), Jobs(queue).waiting()
    app.extra_environ["HTTP_HOST"] = "shop.example:8080"

    wrong = ask(app, "POST", "/cancel", "manager", uid, {"Origin": "http://shop.example"})
    right = ask(app, "POST", "/cancel", "manager", uid, {"Origin": "http://shop.example:8080"})

    assert (wrong.status_int, right.status_int) == (403, 200)


def test_static_file_is_kept_for_a_year_under_its_version_only(queue):
    app = app_of(queue)
    page = app.get("/reload", {"uid": Jobs(queue).running()})
    source = page.html.find("script")["src"]

    version = source.partition("?v=")[2]
    named = app.get("/static/progress.js", {"v": version})

    assert source.startswith("/jobs/static/progress.js?v=")
    assert named.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert named.content_type == "text/javascript"
    for other in ({}, {"v": "x"}):
        answer = app.get("/static/progress.js", other)
        assert answer.headers["Cache-Control"] == "public, max-age=3600"
