"""The panel of tgext.debugbar in a full-stack application that enables it, as a quickstart does.

In a process of its own: the bar's hooks and listeners are for all applications of a process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from forked_python import OF_SERVERS, run_forked

pytestmark = pytest.mark.slow

#: What it imports before it knows whether there is a bar.
OF_APPLICATION = f"beaker.session jinja2 kajiki mako.template webtest {OF_SERVERS}"

#: Prints the pages of an application, by their paths. Arguments: a folder, "bar" or another word,
#: and whether debug is on.
PROGRAM = """import json, sys, types
from pathlib import Path

folder, kind, debug = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "debug"
if kind == "not installed":
    sys.modules["tgext.debugbar"] = None

import tg, transaction, webtest
from tg import FullStackApplicationConfigurator, TGController, expose
from sqlalchemy import orm
import zope.sqlalchemy
from tgext.asyncjob import asyncjob_perform, start_async_worker, task

DBSession = orm.scoped_session(orm.sessionmaker())
zope.sqlalchemy.register(DBSession)

def init_model(engine):
    DBSession.configure(bind=engine)

@task(queue_name="mail")
def send(): pass

def plain(): pass

def page(said):
    return tg.render_template({"said": said}, "kajiki", str(folder / "page.xhtml"))

class RootController(TGController):
    @expose()
    def index(self):
        return page("nothing")

    @expose()
    def two(self):
        send.enqueue()
        uid = asyncjob_perform(plain)
        return page(uid)

    @expose()
    def many(self):
        send.enqueue_many([()] * 150)
        return page("many")

    @expose()
    def back(self):
        savepoint = transaction.savepoint()
        send.enqueue()
        savepoint.rollback()
        return page("back")

    @expose()
    def hostile(self):
        globals()["__name__"] = "<script>alert(1)</script>"
        try:
            asyncjob_perform(plain)
        finally:
            globals()["__name__"] = "debugged"
        return page("hostile")

class Globals:
    def __init__(self):
        start_async_worker(backend="sql", threads=0)

(folder / "page.xhtml").write_text(
    "<html><head><title>A page</title></head><body><p>${said}</p></body></html>")
model = types.ModuleType("model")
model.DBSession, model.init_model = DBSession, init_model
configurator = FullStackApplicationConfigurator()
configurator.update_blueprint({
    "root_controller": RootController(), "app_globals": Globals, "model": model,
    "use_sqlalchemy": True, "sqlalchemy.url": f"sqlite:///{folder}/app.db",
    "renderers": ["json", "kajiki"], "default_renderer": "kajiki", "i18n.enabled": False,
    "helpers": types.SimpleNamespace(), "session.enabled": False, "errorpage.enabled": False,
    "application_root_module": "debugged", "auth_backend": None, "debug": debug,
    "trace_errors.enable": False, "trace_slowreqs.enable": False,
})
try:
    if kind != "not used":
        from tgext.debugbar import enable_debugbar
        enable_debugbar(configurator)
except ImportError:
    pass
app = webtest.TestApp(configurator.make_wsgi_app({"debug": debug}, {"debug": debug}))
pages = {path: app.get(path).text for path in ("/", "/two", "/two", "/many", "/back", "/hostile")}
pages["imported"] = "tgext.debugbar" in sys.modules and bool(sys.modules["tgext.debugbar"])
pages["prefix"] = app.get("/two", extra_environ={"SCRIPT_NAME": "/shop"}).text
print(json.dumps(pages))
"""


def pages_of(folder: Path, kind: str, debug: str = "debug") -> dict[str, Any]:
    (folder / "debugged.py").write_text(PROGRAM)
    done = run_forked(
        [sys.executable, "-c", "import debugged", str(folder), kind, debug],
        imports=OF_APPLICATION, cwd=folder, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: Any) -> dict[str, Any]:
    return pages_of(tmp_path_factory.mktemp("debugged"), "bar")


def panel(page: str) -> tuple[str, list[list[str]], Any]:
    """The title of the panel, its rows, and the panel."""
    bar = BeautifulSoup(page, "html.parser")
    [title] = [each for each in bar.select(".tgdb_title") if each.text.startswith("Jobs")]
    content = title.find_next_sibling(class_="tgdb_content")
    rows = [[cell.text for cell in row.select("td")] for row in content.select("tr")]
    return title.text, rows[1:], content


def test_panel_has_the_jobs_of_this_request_and_of_no_other(pages):
    title, rows, content = panel(pages["/two"])

    assert title == "Jobs (2)"
    assert [row[1:4] for row in rows] == [
        ["debugged.send", "mail", "READY"], ["debugged.plain", "default", "READY"],
    ]  # fmt: skip
    assert [row[4].partition(" in ")[2] for row in rows] == ["two", "two"]
    assert all(row[4].startswith("debugged:") for row in rows)
    assert rows[1][0] in pages["/two"].partition("tgdb_debugbar")[0]  # the page names the uid
    assert [link["href"] for link in content.select("a")] == [
        f"/asyncjob/job?uid={row[0]}" for row in rows
    ]


def test_links_have_the_prefix_of_the_server(pages):
    _title, rows, content = panel(pages["prefix"])

    assert content.select("a")[0]["href"] == f"/shop/asyncjob/job?uid={rows[0][0]}"


def test_request_without_jobs_says_so(pages):
    title, rows, content = panel(pages["/"])

    assert (title, rows) == ("Jobs (0)", [])
    assert "no job" in content.text


def test_only_the_first_of_many_are_listed(pages):
    title, rows, content = panel(pages["/many"])

    assert title == "Jobs (150)"
    assert len(rows) == 100
    assert "50 more" in content.text


def test_job_of_a_savepoint_that_was_rolled_back_is_told_apart(pages):
    _title, [row], _content = panel(pages["/back"])

    assert row[3] == "taken back"


def test_what_a_job_is_called_is_no_markup(pages):
    _title, rows, content = panel(pages["/hostile"])

    assert rows[0][4].startswith("<script>alert(1)</script>:")
    assert content.find("script") is None


@pytest.mark.parametrize(
    ("kind", "debug"), [("not installed", "debug"), ("not used", "debug"), ("bar", "live")]
)
def test_without_the_bar_nothing_of_it_is_there(tmp_path, kind, debug):
    pages = pages_of(tmp_path, kind, debug)

    assert "<p>nothing</p>" in pages["/"]
    assert "tgdb" not in "".join(map(str, pages.values()))
    assert pages["imported"] is (kind == "bar")
