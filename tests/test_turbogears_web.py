"""Elements and pages in TurboGears applications: ``start_async_worker()`` is all that it takes."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tg
import transaction
from bs4 import BeautifulSoup
from tg import MinimalApplicationConfigurator, TGController, expose
from transaction.interfaces import ISynchronizer
from zope.interface import implementer

from tgapps import App, Root, applications, globals_with
from tgext.asyncjob import asyncjob_mine, asyncjob_perform, asyncjob_progress
from tgext.asyncjob.job import CANCELLED, READY
from webpages import SAME_ORIGIN

TEMPLATE = """<html>
<head><title>${title}</title></head>
<body><p>${greeting}</p>
${asyncjob_progress(uid, 'Import', cancel=True, then=tg.url('/done'))}</body>
</html>
"""


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Any]:
    with applications(tmp_path) as make:
        yield make


def does_nothing() -> None:
    """The job; no thread runs it."""


def start() -> dict[str, str]:
    return {"uid": asyncjob_perform(does_nothing)}


class Identities:
    """What a site knows of its users: the names of some are those of their permission."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_user(self, _identity: Any, userid: str) -> str:
        self.asked.append(userid)
        return userid

    def get_groups(self, _identity: Any, _userid: str) -> list[str]:
        return []

    def get_permissions(self, _identity: Any, userid: str) -> list[str]:
        return [userid]


def as_user(name: str | None) -> dict[str, Any]:
    """The environ that repoze.who makes for a user."""
    return {} if name is None else {"repoze.who.identity": {"repoze.who.userid": name}}


@pytest.fixture
def identities() -> Identities:
    return Identities()


@pytest.fixture
def app(make_app: Any, identities: Identities) -> App:
    made: App = make_app(
        app_globals=globals_with(threads=0, web_readonly_permission="look", secret="swordfish"),
        ini={"asyncjob.backend": "sql"},
        **{"sa_auth.authmetadata": identities, "errorpage.enabled": True,
           "errorpage.status_codes": [403, 404, 405]},
    )  # fmt: skip
    return made


def started(app: App, user: str | None = None) -> str:
    return str(app.does(start, extra_environ=as_user(user)).json["uid"])


def ask(app: App, *uids: str, **options: Any) -> Any:
    query = "&".join(f"uid={uid}" for uid in uids)
    return app.get(f"/asyncjob/progress?{query}", **options)


def cancel(app: App, uid: str, user: str | None, **fields: str) -> Any:
    return app.web.post(
        "/asyncjob/cancel", {"uid": uid, **fields}, expect_errors=True,
        headers={"Accept": "application/json", **SAME_ORIGIN}, extra_environ=as_user(user),
    )  # fmt: skip


def mine(**options: Any) -> dict[str, list[str]]:
    return {"jobs": [job.id for job in asyncjob_mine(**options)]}


def test_user_gets_the_own_jobs_the_newest_first(app):
    first, other, second = (started(app, user) for user in ("ann", "bob", "ann"))
    nobodys = started(app)
    ann = as_user("ann")
    app.queue.result(first).cancel()

    assert app.does(mine, extra_environ=ann).json["jobs"] == [second, first]
    assert app.does(lambda: mine(limit=1), extra_environ=ann).json["jobs"] == [second]
    assert app.does(lambda: mine(status="CANCELLED"), extra_environ=ann).json["jobs"] == [first]
    assert app.does(mine, extra_environ=as_user("bob")).json["jobs"] == [other]
    assert app.does(mine).json["jobs"] == []  # nobody's jobs are not those of a visitor
    assert app.queue.result(nobodys).enqueued_by is None


@implementer(ISynchronizer)
class Begins:
    """Counts the transactions of this thread that begin."""

    number = 0

    def newTransaction(self, _transaction: Any) -> None:
        self.number += 1

    def beforeCompletion(self, _transaction: Any) -> None: ...
    def afterCompletion(self, _transaction: Any) -> None: ...


@pytest.fixture
def begins() -> Iterator[Begins]:
    made = Begins()
    transaction.manager.registerSynch(made)
    yield made
    transaction.manager.unregisterSynch(made)


def test_progress_of_a_job_is_served_without_transaction_session_and_user(app, identities, begins):
    uid = started(app, "ann")
    begun, asked = begins.number, list(identities.asked)

    answer = ask(app, uid, extra_environ=as_user("ann"))

    assert answer.json["jobs"][0]["state"] == "waiting"
    assert (begins.number, identities.asked) == (begun, asked)
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("user", "status"),
    [(None, 403), ("eve", 403), ("look", 403), ("manage", 200), ("ann", 200)],
)
def test_job_is_cancelled_by_whoever_may(app, user, status):
    uid = started(app, "ann")

    answer = cancel(app, uid, user)

    assert answer.status_int == status
    assert app.queue.result(uid).status is (CANCELLED if status == 200 else READY)


@pytest.mark.parametrize(
    ("user", "sees", "acts"),
    [(None, 403, 403), ("eve", 403, 403), ("look", 200, 403), ("manage", 200, 303)],
)
def test_dashboard_is_for_those_who_have_a_permission(app, user, sees, acts):
    started(app, "ann")

    page = app.get("/asyncjob/", extra_environ=as_user(user))
    pause = app.web.post(
        "/asyncjob/queues/pause", {"of": "default"}, expect_errors=True, headers=SAME_ORIGIN,
        extra_environ=as_user(user),
    )  # fmt: skip

    assert (page.status_int, pause.status_int) == (sees, acts)
    if sees == 403:
        assert "the permission &quot;look&quot; or &quot;manage&quot; is needed" in page.text
    paused = [(each.queue_name, each.user) for each in app.queue.paused()]
    assert paused == ([("default", "manage")] if acts == 303 else [])


def test_owner_and_readers_see_a_job_where_the_option_says_so(make_app, identities):
    app = make_app(
        ini={"asyncjob.progress_access": "owner", "asyncjob.threads": "0",
             "asyncjob.web_readonly_permission": "look", "asyncjob.web_permission": "rule"},
        **{"sa_auth.authmetadata": identities},
    )  # fmt: skip
    uid = started(app, "ann")

    states = {
        user: ask(app, uid, extra_environ=as_user(user)).json["jobs"][0]["state"]
        for user in (None, "eve", "manage", "look", "rule", "ann")
    }

    assert states == {
        None: "unknown", "eve": "unknown", "manage": "unknown", "look": "waiting",
        "rule": "waiting", "ann": "waiting",
    }  # fmt: skip


def test_permissions_are_asked_for_in_the_hosts_own_transaction_and_only_if_needed(
    app, identities, begins
):
    uid = started(app, "ann")
    begun, asked = begins.number, len(identities.asked)

    cancel(app, uid, "ann")
    of_owner = (begins.number - begun, len(identities.asked) - asked)
    cancel(app, uid, "manage")
    of_manager = (begins.number - begun, len(identities.asked) - asked)

    assert of_owner == (0, 0)
    assert of_manager == (1, 1)


def test_error_pages_of_the_host_are_not_put_over_those_of_the_package(app):
    missing, refused = app.get("/asyncjob/nothing"), app.get("/asyncjob/cancel")

    assert (missing.status_int, refused.status_int) == (404, 405)
    assert "No such page" in missing
    assert missing.headers["X-Content-Type-Options"] == "nosniff"


def test_paths_beside_the_pages_are_the_hosts(app):
    app.root.action = lambda **_params: {"host": True}

    assert app.get("/").json == {"host": True}
    assert app.get("/asyncjobs/progress").status_int == 404
    assert app.get("/asyncjob").location == "/asyncjob/"
    assert app.get("/asyncjob/nothing").status_int == 404
    assert "No such page" in app.get("/asyncjob/nothing")
    assert "No such page" not in app.get("/asyncjobs")


@pytest.mark.parametrize(
    ("path", "served"), [("/a/b", ["/a/b"]), ("none", []), ("", ["/asyncjob"])]
)
def test_path_is_the_option(make_app, path, served):
    app = make_app(ini={"asyncjob.web_path": path, "asyncjob.threads": "0"})
    uid = started(app)

    found = [
        each for each in ("/asyncjob", "/a/b", "/none")
        if app.get(f"{each}/progress?uid={uid}").content_type == "application/json"
    ]  # fmt: skip

    assert found == served


# -- the element


class Pages(TGController):
    """A page whose template calls ``asyncjob_progress``, and one whose controller does."""

    @expose()
    def show(self, uid: str) -> str:
        values = {"uid": uid, "title": "A page"}
        return str(tg.render_template(values, "kajiki", tg.config["test.template"]))

    @expose()
    def text(self, uid: str) -> str:
        return str(asyncjob_progress(uid, cancel=True))

    @expose("json")
    def start(self) -> dict[str, str]:
        return start()


@pytest.fixture
def pages(make_app: Any, tmp_path: Path, identities: Identities) -> App:
    (tmp_path / "page.xhtml").write_text(TEMPLATE)
    made: App = make_app(
        Pages(),
        app_globals=globals_with(threads=0),
        renderers=["json", "kajiki"],
        variable_provider=lambda: {"greeting": "Hello"},
        **{"test.template": str(tmp_path / "page.xhtml"), "sa_auth.authmetadata": identities},
    )
    return made


def element_on(page: Any) -> Any:
    return BeautifulSoup(page.text, "html.parser").find("asyncjob-progress")


def form_on(page: Any, kind: str) -> tuple[str, dict[str, str]]:
    form = element_on(page).find("form", class_=f"asyncjob-{kind}")
    return form["action"], {field["name"]: field["value"] for field in form.find_all("input")}


def test_template_has_the_element_without_an_import(pages):
    uid = pages.get("/start").json["uid"]

    page = pages.get(f"/show?uid={uid}")

    element = element_on(page)
    assert page.status_int == 200
    assert "Hello" in page  # what the application's own variable_provider gives
    assert (element["data-uid"], element["data-state"]) == (uid, "waiting")
    assert element["data-url"] == "/asyncjob"
    assert pages.get(element.script["src"]).content_type == "text/javascript"
    assert pages.get(element.link["href"]).content_type == "text/css"


def test_button_of_the_page_works_for_the_user_of_the_page_alone(pages):
    uids = [pages.get("/start").json["uid"] for _ in range(2)]
    for uid, user in zip(uids, ("eve", "ann"), strict=True):
        page = pages.get(f"/text?uid={uid}", extra_environ=as_user("ann"))
        action, fields = form_on(page, "cancel")
        assert action == "/asyncjob/cancel"
        cancel(pages, uid, user, token=fields["token"])

    assert [pages.queue.result(uid).status for uid in uids] == [READY, CANCELLED]


def test_page_that_is_made_while_it_is_sent_is_for_its_user_too(pages):
    class Streams(Pages):
        @expose()
        def streamed(self, uid: str) -> Iterator[bytes]:
            def parts() -> Iterator[bytes]:
                yield str(asyncjob_progress(uid, cancel=True)).encode()

            return parts()

    pages.conf["tg.root_controller"] = pages.tgapp.controller_instances["root"] = Streams()
    uid = pages.get("/start").json["uid"]

    page = pages.get(
        f"/streamed?uid={uid}", extra_environ={**as_user("ann"), "SCRIPT_NAME": "/shop"}
    )
    action, fields = form_on(page, "cancel")

    assert action == "/shop/asyncjob/cancel"
    assert cancel(pages, uid, "ann", token=fields["token"]).status_int == 200


def test_urls_of_the_element_have_the_prefix_of_the_server(pages):
    uid = pages.get("/start").json["uid"]

    page = pages.get(f"/show?uid={uid}", extra_environ={"SCRIPT_NAME": "/shop"})

    assert element_on(page)["data-url"] == "/shop/asyncjob"
    action, fields = form_on(page, "reload")
    assert (action, fields["then"]) == ("/shop/asyncjob/reload", "/shop/done")


def test_job_is_on_the_page_of_the_request_that_enqueues_it(pages):
    class Enqueues(Pages):
        @expose()
        def now(self) -> str:
            return str(asyncjob_progress(asyncjob_perform(does_nothing)))

    pages.conf["tg.root_controller"] = pages.tgapp.controller_instances["root"] = Enqueues()

    element = element_on(pages.get("/now"))

    assert element["data-state"] == "waiting"
    assert ask(pages, element["data-uid"]).json["jobs"][0]["state"] == "waiting"


def test_element_of_a_job_that_renders_a_page_has_the_path_of_the_option(pages):
    found = []

    def job() -> None:
        found.append(asyncjob_progress("asyncjob_x"))

    pages.queue.perform(job)
    pages.queue.run_pending()

    assert 'data-url="/asyncjob"' in found[0]


def test_single_file_application_serves_the_pages_too(make_app):
    app = make_app(
        Root(), database=False, configurator=MinimalApplicationConfigurator(),
        app_globals=globals_with(threads=0), helpers=types.SimpleNamespace(),
    )  # fmt: skip
    uid = started(app)

    assert ask(app, uid).json["jobs"][0]["state"] == "waiting"
    assert cancel(app, uid, None).status_int == 403
    assert element_on(app.does(lambda: str(asyncjob_progress(uid)), "/text"))["data-uid"] == uid


WITHOUT = """
import sys
sys.modules["kajiki"] = None
from tg import MinimalApplicationConfigurator, TGController, expose
from webtest import TestApp
import tgext.asyncjob
from tgext.asyncjob import start_async_worker

class Root(TGController):
    @expose()
    def index(self):
        import tg
        try:
            tg.config["variable_provider"]()["asyncjob_progress"]("asyncjob_x")
        except ImportError as error:
            return f"{type(error).__name__}: {error}"

class Globals:
    def __init__(self):
        start_async_worker(threads=0)

config = MinimalApplicationConfigurator()
config.update_blueprint({"root_controller": Root(), "app_globals": Globals})
app = TestApp(config.make_wsgi_app({}, {}))
print(app.get("/").text)
print(app.get("/asyncjob/progress?uid=x", status=404).status_int)
try:
    tgext.asyncjob.asyncjob_progress
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_without_the_extra_an_application_runs_and_the_element_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    page, status, imported = done.stdout.splitlines() or [done.stderr, "", ""]

    assert page.startswith("MissingExtra: asyncjob_progress needs packages")
    assert "tgext.asyncjob[web]" in page
    assert status == "404"
    assert "tgext.asyncjob[web]" in imported
