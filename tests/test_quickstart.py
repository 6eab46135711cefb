"""The acceptance application: a real ``gearbox quickstart`` with authentication and migrations.

It is generated as a developer does it, and asyncjob is switched on by what docs/ says, word for
word. What follows is done by the project's own tools, each a process of its own: its test suite,
setup-app, and ``gearbox migrate``.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from difflib import ndiff

import pytest

from quickstart import DOCS, Project, follow_tutorial, make_project
from test_docs import blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The first two steps of docs/tutorial.rst."""
    return make_project(tmp_path_factory.mktemp("quickstart"))


@pytest.fixture
def project(made, tmp_path):
    """A copy of it for one test."""
    return Project(shutil.copytree(made.path, tmp_path / made.path.name))


@pytest.fixture
def durable(project):
    """The same with the line of docs/durable.rst in development.ini."""
    [line] = [
        block.astext()
        for block in blocks_of(DOCS / "durable.rst", "ini")
        if "asyncjob.backend" in block.astext()
    ]
    project.edit("development.ini", "use = egg:myapp\n", f"use = egg:myapp\n{line}\n")
    return project


#: Uses the pages of docs/tutorial.rst as somebody with a browser does; the job waits at each step.
BROWSER = """
import threading
from paste.deploy import loadapp
from webtest import TestApp
from tgext.asyncjob import asyncjob_result

app = TestApp(loadapp("config:development.ini", relative_to="."))
from myapp import jobs

steps = threading.Semaphore(0)

def sleep(_seconds):
    assert steps.acquire(timeout=20)

jobs.sleep = sleep
print("anonymous:", app.get("/rename", status=302).location)
print("link:", app.get("/login_handler?login=manager&password=managepass", status=302).status_int)
print("get:", app.get("/start_rename?suffix=x", status="*").status_int)
form = app.get("/rename").form
form["suffix"] = "the Great"
page = form.submit(status=302).follow()
print("begun:", "READY" in page or "RUNNING" in page, 'http-equiv="refresh"' in page)
for _ in range(3):
    steps.release()
uid = page.request.GET["uid"]
while app.get("/job_state", {"uid": uid}).json["progress"]["value"] < 3:
    pass
page = app.get("/job", {"uid": uid})
print("bar:", page.html.progress["value"], "of", page.html.progress["max"])
for _ in range(7):
    steps.release()
while app.get("/job_state", {"uid": uid}).json["status"] == "RUNNING":
    pass
page = app.get("/job", {"uid": uid})
print("done:", "SUCCESSFUL" in page, "2 people renamed" in page)
gone = app.get("/job_state", {"uid": "asyncjob_nobody"}, status=404)
print("gone:", gone.content_type, gone.json["status"])
form["suffix"] = ""
page = form.submit(status=302).follow()
while app.get("/job_state", {"uid": page.request.GET["uid"]}).json["status"] != "FAILED":
    pass
print("failed:", "a suffix is needed" in app.get("/job", {"uid": page.request.GET["uid"]}))
"""


@pytest.fixture
def tutorial(project):
    """docs/tutorial.rst, word for word, up to the job's tests."""
    follow_tutorial(project)
    return project


@pytest.mark.parametrize("backend", ["memory", "sql"])
def test_pages_of_the_tutorial_work_in_a_quickstart_application(tutorial, backend):
    tutorial.edit("development.ini", "devdata.db\n", "devdata.db?timeout=30\n")
    lines = f"[app:main]\nasyncjob.backend = {backend}\n"
    tutorial.edit("development.ini", "[app:main]\n", lines)
    tutorial.gearbox("setup-app", "-c", "development.ini")

    said = tutorial.run("-c", BROWSER)

    found = dict(re.findall(r"^(\w+): (.*)$", said, re.M))
    assert "/login?came_from=" in found.pop("anonymous")
    assert found == {
        "link": "302",
        "get": "405",
        "begun": "True True",
        "bar": "3 of 10",
        "done": "True True",
        "gone": "application/json 404",
        "failed": "True",
    }, said


def test_tests_of_the_tutorial_pass_beside_those_of_the_quickstart(tutorial):
    tutorial.is_forked = False
    tutorial.edit("development.ini", "[app:main]\n", "[app:main]\nasyncjob.backend = sql\n")

    assert re.search(r"\b23 passed", tutorial.pytest())


def test_suite_of_a_durable_quickstart_passes_with_the_line_that_its_error_gives(durable):
    one = "myapp/tests/functional/test_root.py"
    said = durable.pytest(one, fails=True)
    [line] = set(re.findall(r"in test\.ini set (asyncjob\.backend = \w+)", said))

    durable.edit(
        "test.ini", "use = config:development.ini\n", f"use = config:development.ini\n{line}\n"
    )

    assert re.search(r"\b20 passed", durable.pytest())


def keep_alembic_away(project: Project) -> None:
    """Do to migration/env.py what docs/tables.rst says."""
    function, argument = [
        block.astext()
        for block in blocks_of(DOCS / "tables.rst")
        if "include_name" in block.astext()
    ]
    project.edit(
        "migration/env.py",
        "def run_migrations_offline",
        f"{function}\n\ndef run_migrations_offline",
    )
    project.edit("migration/env.py", "context.configure(", f"context.configure({argument}")


def test_alembic_lets_our_tables_be_where_the_documented_lines_stand(durable):
    durable.gearbox("setup-app", "-c", "development.ini")
    assert {"asyncjob_jobs", "tg_user"} <= durable.tables()

    without = durable.autogenerate()
    keep_alembic_away(durable)
    with_them = durable.autogenerate()
    with closing(sqlite3.connect(durable.path / "devdata.db")) as connection:
        connection.execute("DROP TABLE todo_item")
    without_a_table_of_the_model = durable.autogenerate()

    assert "op.drop_table('asyncjob_jobs')" in without
    assert "op." not in with_them
    assert "pass" in with_them
    assert "op.create_table('todo_item'" in without_a_table_of_the_model
    assert "asyncjob" not in without_a_table_of_the_model


def test_tables_may_be_made_by_a_migration(durable):
    """As docs/tables.rst says: what ``asyncjob-schema --sql`` prints, in ``op.execute``."""
    durable.edit("development.ini", "[app:main]\n", "[app:main]\nasyncjob.create_tables = false\n")
    schema = ("-m", "tgext.asyncjob", "schema", "--url", f"sqlite:///{durable.path}/devdata.db")
    said = durable.run(*schema, "--sql")
    durable.gearbox("migrate", "-c", "development.ini", "create", "jobs")
    [made] = (durable.path / "migration" / "versions").glob("*.py")
    statements = [text.strip() for text in said.split(";\n") if text.strip()]
    body = "\n".join(f"    op.execute({text!r})" for text in statements)
    text = re.sub(
        r"(?<=def upgrade\(\):\n).*?(?=\ndef )", lambda _: f"{body}\n", made.read_text(), flags=re.S
    )
    made.write_text(text)

    durable.gearbox("migrate", "-c", "development.ini", "upgrade")

    assert "asyncjob_jobs" in durable.tables()
    assert "found: version 3" in durable.run(*schema)
    durable.gearbox("setup-app", "-c", "development.ini")


#: The one call of docs/progress.rst, at the end of every page.
ONE_CALL = "${asyncjob_progress(tg.request.GET.get('uid', ''), 'A job', cancel=True)}"

#: Uses that page: nobody, a user without and one with the permission ``manage``.
BAR = """
from paste.deploy import loadapp
from webtest import TestApp
import tg
from tgext.asyncjob import asyncjob_perform

wsgi = loadapp("config:development.ini", relative_to=".")
queue = tg.config["tg.app_globals"].asyncjob_queue

def nothing():
    pass

def app_of(user):
    app = TestApp(wsgi)
    if user:
        word = {"editor": "editpass", "manager": "managepass"}[user]
        app.get(f"/login_handler?login={user}&password={word}", status=302)
        assert app.cookies["authtkt"]
    return app

uid = queue.perform(nothing)
page = app_of(None).get("/login", {"uid": uid})
element = page.html.find("asyncjob-progress")
print("state:", element["data-state"], element["data-url"])
for file in element.script["src"], element.link["href"]:
    print(file.partition("?")[0].rpartition(".")[2] + ":", app_of(None).get(file).content_type)
asked = app_of(None).get("/asyncjob/progress", {"uid": uid})
print("asked:", asked.json["jobs"][0]["state"], "Set-Cookie" in asked.headers)
headers = {"Sec-Fetch-Site": "same-origin"}
for user in (None, "editor", "manager"):
    page = app_of(user).post("/asyncjob/cancel", {"uid": uid}, headers=headers, status="*")
    print(f"{user}:", page.status_int, queue.result(uid).status)
queue.close()
"""


#: Looks at a page with the bar before and after its job.
LOOK = """
from paste.deploy import loadapp
from webtest import TestApp
import tg

app = TestApp(loadapp("config:development.ini", relative_to="."))
queue = tg.config["tg.app_globals"].asyncjob_queue
uid = queue.perform(len, "x")
first = app.get("/login", {"uid": uid}).html.find("asyncjob-progress")
queue.result(uid).wait(20)
last = app.get("/login", {"uid": uid}).html.find("asyncjob-progress")
print("bars:", len(first.find_all("progress")), last["data-state"], last.div.text)
queue.close()
"""


def test_bar_on_a_bare_quickstart_page_is_three_lines_of_the_developer(made, project):
    app_globals = project.path / "myapp" / "lib" / "app_globals.py"
    app_globals.write_text(made.bare_globals)
    before = {path: path.read_text() for path in project.path.rglob("*.*ml") if path.is_file()}
    before[app_globals] = made.bare_globals

    # docs/progress.rst: a line that imports, one that starts, one in the template
    started = re.sub(
        r"( +)def __init__\(self\):\n(?: +\"\"\".*\"\"\"\n)?(?: +pass\n)?",
        r"\g<0>\1    start_async_worker()\n",
        made.bare_globals,
    )
    one_import = "from tgext.asyncjob import start_async_worker\n"
    app_globals.write_text(started.replace("\n\n\nclass", f"\n{one_import}\n\nclass", 1))
    project.edit("myapp/templates/master.xhtml", "</body>", f"{ONE_CALL}\n</body>")
    project.gearbox("setup-app", "-c", "development.ini")
    said = project.run("-c", LOOK)

    written = [
        line[2:].strip()
        for path, text in before.items()
        for line in ndiff(text.splitlines(), path.read_text().splitlines())
        if line.startswith("+ ")
    ]
    assert "bars: 1 done A job" in said, said
    assert sorted(written) == [
        "${asyncjob_progress(tg.request.GET.get('uid', ''), 'A job', cancel=True)}",
        "from tgext.asyncjob import start_async_worker",
        "start_async_worker()",
    ]


def test_one_call_in_a_template_shows_a_bar_and_managers_cancel(project):
    project.edit("development.ini", "[app:main]\n", "[app:main]\nasyncjob.threads = 0\n")
    project.edit("myapp/templates/master.xhtml", "</body>", f"{ONE_CALL}\n</body>")
    project.gearbox("setup-app", "-c", "development.ini")

    said = project.run("-c", BAR)

    assert dict(re.findall(r"^(\w+): (.*)$", said, re.M)) == {
        "state": "waiting /asyncjob",
        "js": "text/javascript",
        "css": "text/css",
        "asked": "waiting False",
        "None": "403 READY",
        "editor": "403 READY",
        "manager": "200 CANCELLED",
    }, said
