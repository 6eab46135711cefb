"""The documentation, held against the package: its programs run, its tables are right.

What README.txt shows first is run as the application that it is, page by page.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import functools
import importlib
import io
import queue as queue_module
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import docutils.core
import docutils.nodes
import docutils.parsers.rst.roles
import pytest

import tgext.asyncjob
from projects import PLAIN, model_source, write_project
from test_layers import LAYERS
from tgext.asyncjob import JobQueue, TaskResult, asyncjob_result, errors
from tgext.asyncjob.backends import memory
from tgext.asyncjob.options import Options
from tgext.asyncjob.processes.supervisor import DEFAULT_RESTART_POLICY
from tgext.asyncjob.task_options import TaskOptions
from tgext.asyncjob.transactions import scope
from tgext.asyncjob.worker import job_log

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tgext" / "asyncjob"
DOCS = sorted((ROOT / "docs").glob("*.rst"))
#: Pages that Sphinx does not build: `make docs` checks the reST and the links of the others.
PLAIN_PAGES = [ROOT / "README.txt", ROOT / "CHANGES.txt", ROOT / "sample_app" / "README.rst"]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")

#: Seconds within which a thread that may go on does so; nobody waits for it that is right.
PATIENCE_SECONDS = 20.0


# -- reading the pages

#: Sphinx's links to pages are texts here.
docutils.parsers.rst.roles.register_generic_role("doc", docutils.nodes.inline)


@functools.cache
def parse(page: Path) -> tuple[docutils.nodes.document, str]:
    """Give the document of *page*, which nobody changes, and what docutils complains of in it."""
    complaints = io.StringIO()
    document = docutils.core.publish_doctree(
        page.read_text(encoding="utf-8"),
        settings_overrides={
            "report_level": 2,
            "halt_level": 5,
            "warning_stream": complaints,
            "file_insertion_enabled": False,
            "raw_enabled": False,
        },
    )
    return document, complaints.getvalue()


def blocks_of(page: Path, language: str = "python") -> list[docutils.nodes.literal_block]:
    document, _ = parse(page)
    found = document.findall(docutils.nodes.literal_block)
    return [block for block in found if language in block["classes"]]


#: The comment before a block that is to be run.
MARK = "test: run"


def is_marked(block: docutils.nodes.literal_block) -> bool:
    """Whether the comment ``.. test: run`` stands before a block."""
    before = block.parent[block.parent.index(block) - 1]
    return isinstance(before, docutils.nodes.comment) and before.astext() == MARK


def rows_of(page: Path) -> dict[str, list[str]]:
    """The rows of all tables of a page, by the text of their first cell."""
    document, _ = parse(page)
    rows = [
        [entry.astext() for entry in row.findall(docutils.nodes.entry)]
        for row in document.findall(docutils.nodes.row)
    ]
    return {first: rest for first, *rest in rows}


def run(code: str, name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    exec(compile(code, name, "exec"), vars(module))
    return module


def docs_text() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in DOCS)


def shown(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


# -- README.txt: the page with a bar


class Steps:
    """Stands in for ``sleep``: the job takes its next step when the test lets it."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._allowed = threading.Semaphore(0)

    def __call__(self, _seconds: float) -> None:
        self._arrived.release()
        if not self._allowed.acquire(timeout=30):
            raise RuntimeError("nobody allowed this step")

    def arrive(self) -> None:
        """Return when the job stands before its next step."""
        assert self._arrived.acquire(timeout=PATIENCE_SECONDS), "the job did not come so far"

    def allow(self, number: int = 1) -> None:
        self._allowed.release(number)


class ReadmePage:
    """The application of README.txt, and how its pages are asked for."""

    def __init__(self) -> None:
        import tg
        from webtest import TestApp

        [block] = blocks_of(ROOT / "README.txt")
        self.steps = Steps()
        self._module = run(block.astext(), "readme_page")
        self._module.sleep = self.steps  # type: ignore[attr-defined]
        self.app = TestApp(self._module.application)
        self.queue: JobQueue = tg.config["tg.app_globals"].asyncjob_queue

    def press(self, days: str) -> str:
        """Press a button of the first page; return the uid of the job."""
        form = self.app.get("/").form
        page = form.submit("days", value=days).follow()
        return str(page.request.GET["uid"])

    def show(self, uid: str) -> str:
        return str(self.app.get("/job", {"uid": uid}).text)

    def show_ended(self, uid: str) -> str:
        self.queue.result(uid).wait(timeout=PATIENCE_SECONDS)
        return self.show(uid)


@pytest.fixture
def readme_page() -> Iterator[ReadmePage]:
    page = ReadmePage()
    yield page
    page.steps.allow(1000)
    page.queue.close()


def test_page_of_the_readme_shows_that_a_job_waits(readme_page: ReadmePage) -> None:
    readme_page.press("10")
    readme_page.steps.arrive()  # the only thread is busy from here on

    page = readme_page.show(readme_page.press("10"))

    assert 'data-state="waiting"' in page
    assert "Waiting" in page


def test_page_of_the_readme_shows_a_bar_that_moves(readme_page: ReadmePage) -> None:
    uid = readme_page.press("10")
    bars = []
    for _ in range(3):
        readme_page.steps.arrive()
        bars += re.findall(r'<progress value="(\d+)" max="10" ', readme_page.show(uid))
        readme_page.steps.allow()

    assert bars == ["0", "1", "2"]


def test_page_of_the_readme_shows_that_a_job_is_done(readme_page: ReadmePage) -> None:
    readme_page.steps.allow(10)

    page = readme_page.show_ended(readme_page.press("10"))

    assert 'data-state="done"' in page
    assert "Done" in page


def test_page_of_the_readme_shows_why_a_job_failed(readme_page: ReadmePage) -> None:
    page = readme_page.show_ended(readme_page.press("99"))

    assert 'data-state="failed"' in page
    assert "Failed: ValueError: a report has at most 31 days, not 99" in page


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / "README.txt").read_text(encoding="utf-8") + docs_text()

    named = set(re.findall(r"(?:^ +|``)make (\w+)", text, re.M))

    assert {"demo", "test", "dist"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.M)] == []


# -- seed.rst: the example of 0.2


@pytest.fixture
def seed_app() -> Iterator[tuple[Any, Steps]]:
    """The progress example of seed.rst as an application, and the steps of its job."""
    import tg
    from webtest import TestApp

    globals_block, example = (
        block.astext()
        for block in blocks_of(ROOT / "docs" / "seed.rst")
        if "class Globals" in block.astext() or "def async_action" in block.astext()
    )
    names = {"expose": tg.expose, "redirect": tg.redirect, "url": tg.url}
    module: Any = run(example, "seed_example", BaseController=tg.TGController, **names)
    module.time = SimpleNamespace(sleep=Steps())
    configurator = tg.MinimalApplicationConfigurator()
    app_globals = run(globals_block, "seed_globals").Globals
    configurator.update_blueprint(
        {"root_controller": module.RootController(), "app_globals": app_globals}
    )
    app = TestApp(configurator.make_wsgi_app({}, {}))
    queue = tg.config["tg.app_globals"].asyncjob_queue
    yield app, module.time.sleep
    module.time.sleep.allow(1000)
    queue.close()


def test_example_of_the_seed_shows_all_states(seed_app: tuple[Any, Steps]) -> None:
    app, steps = seed_app
    running = app.get("/controller_method").follow()
    steps.arrive()
    waiting = app.get("/controller_method").follow()

    assert waiting.text == "Not yet started"
    assert app.get(running.request.url).text == "0"

    steps.allow()
    steps.arrive()
    assert app.get(running.request.url).text == "1"

    steps.allow(100)
    asyncjob_result(running.request.GET["uid"]).wait(timeout=PATIENCE_SECONDS)
    assert app.get(running.request.url).text == "Job Completed"


# -- tutorial.rst: the application that the tutorial builds

MASTER = """<html>
<head py:block="head"></head><body py:block="body"></body>
</html>"""

#: What a quickstart application has in these files before the tutorial begins.
BEFORE = {"controllers/root.py": "from tg import TGController as BaseController\n"}


class Tutorial:
    """``myapp``, in a folder of its own, with the files that tutorial.rst writes."""

    def __init__(self, folder: Path, backend: str) -> None:
        import tg
        from tg import FullStackApplicationConfigurator
        from tg.configuration import milestones
        from webtest import TestApp

        # An application of an earlier test has reached them; templates that are exposed after
        # that would be looked up with its renderer.
        milestones._reset_all()
        self._write(folder / "myapp")
        self._module = __import__("myapp.controllers.root", fromlist=["root"])
        configurator = FullStackApplicationConfigurator()
        configurator.update_blueprint(
            {
                **PLAIN,
                "package": __import__("myapp"),
                "root_controller": self._module.RootController(),
                "app_globals": __import__("myapp.lib.app_globals", fromlist=["lib"]).Globals,
                "model": __import__("myapp.model", fromlist=["model"]),
                "use_sqlalchemy": True,
                "sqlalchemy.url": f"sqlite:///{folder}/myapp.db?timeout=30",
                "renderers": ["kajiki", "json"],
                "default_renderer": "kajiki",
            }
        )
        lines = {"asyncjob.threads": "0", "asyncjob.backend": backend}
        # What the login of a quickstart application does; test_quickstart.py has a real one.
        credentials = {"permissions": ["manage"], "groups": [], "repoze.what.userid": "manager"}
        self.app = TestApp(
            configurator.make_wsgi_app({}, lines),
            extra_environ={"repoze.what.credentials": credentials},
        )
        __import__("myapp.jobs", fromlist=["jobs"]).sleep = lambda _seconds: None
        self.queue: JobQueue = tg.config["tg.app_globals"].asyncjob_queue
        self.engine = tg.config["tg.app_globals"].sa_engine
        self.model = __import__("myapp.model", fromlist=["model"])
        with self.engine.begin() as connection:
            users = self.model.User.__table__.insert()
            connection.execute(users, [{"display_name": "Ann"}, {"display_name": "Bob"}])

    @staticmethod
    def _write(folder: Path) -> None:
        page = ROOT / "docs" / "tutorial.rst"
        app_globals, jobs, root, _, json_page = (block.astext() for block in blocks_of(page))
        more = json_page.partition("class RootController(BaseController):")[2]
        rename, job = (block.astext() for block in blocks_of(page, "html"))
        files = {
            "__init__.py": "",
            "model.py": model_source("User", "tg_user", key="user_id", column="display_name"),
            "jobs.py": jobs,
            "lib/__init__.py": "",
            "lib/app_globals.py": app_globals,
            "controllers/__init__.py": "",
            "controllers/root.py": root + more,
            "templates/__init__.py": "",
            "templates/rename.xhtml": rename,
            "templates/job.xhtml": job,
            "templates/master.xhtml": MASTER,
        }
        write_project(folder, {name: BEFORE.get(name, "") + files[name] for name in files})

    def start(self, suffix: str) -> Any:
        form = self.app.get("/rename").form
        form["suffix"] = suffix
        return form.submit().follow()

    def names(self) -> list[str]:
        with self.engine.connect() as connection:
            rows = connection.execute(self.model.User.__table__.select())
            return [row.display_name for row in rows]


@pytest.fixture(params=["memory", "sql"])
def tutorial(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tutorial]:
    """The application as it is, and with the one line of its last step."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Tutorial(tmp_path, request.param)
    yield made
    made.queue.close()
    made.model.DBSession.remove()
    made.engine.dispose()
    for name in [name for name in sys.modules if name.split(".")[0] == "myapp"]:
        del sys.modules[name]


def test_tutorial_ends_with_a_page_that_shows_all_states(tutorial: Tutorial) -> None:
    waiting = tutorial.start("Smith")
    tutorial.queue.run_pending()
    done = waiting.goto(waiting.request.url)

    assert "READY" in waiting
    assert 'http-equiv="refresh"' in waiting
    assert "2 people renamed" in done
    assert 'value="10"' in done
    assert 'http-equiv="refresh"' not in done
    assert tutorial.names() == ["Ann Smith", "Bob Smith"]


def test_tutorial_ends_with_a_page_that_shows_failure(tutorial: Tutorial) -> None:
    page = tutorial.start("")
    tutorial.queue.run_pending()

    failed = page.goto(page.request.url)

    assert "FAILED" in failed
    assert "a suffix is needed" in failed
    assert tutorial.names() == ["Ann", "Bob"]


def test_page_of_the_tutorial_says_that_a_job_is_unknown(tutorial: Tutorial) -> None:
    uid = {"uid": "asyncjob_nobody_made_this"}

    tutorial.app.get("/job", uid, status=404)
    answer = tutorial.app.get("/job_state", uid, status=404)

    assert answer.content_type == "application/json"
    assert "asyncjob_nobody_made_this" in answer.json["detail"]


def test_job_of_the_tutorial_starts_by_post_alone_and_with_the_permission(
    tutorial: Tutorial,
) -> None:
    nobody: dict[str, Any] = {"repoze.what.credentials": {"permissions": [], "groups": []}}

    tutorial.app.get("/start_rename", {"suffix": "x"}, status=405)
    tutorial.app.post("/start_rename", {"suffix": "x"}, extra_environ=nobody, status=401)
    tutorial.app.get("/job_state", {"uid": "x"}, extra_environ=nobody, status=401)

    assert tutorial.queue.run_pending() == 0


def test_job_of_the_tutorial_is_as_json_what_the_page_says(tutorial: Tutorial) -> None:
    uid = tutorial.start("Smith").request.GET["uid"]
    tutorial.queue.run_pending()

    found = tutorial.app.get("/job_state", {"uid": uid}).json

    assert (found["id"], found["status"]) == (uid, "SUCCESSFUL")
    assert found["progress"] == {"value": 10, "data": None, "total": 10}


# -- the other programs


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_python_of_the_page_compiles(page: Path) -> None:
    for block in blocks_of(page):
        compile(block.astext(), page.name, "exec")


def marked_in(page: Path) -> list[int]:
    """The numbers of the marked blocks among a page's Python blocks; docutils would take each
    process that collects tests a second for all pages."""
    numbers, before, number = [], "", 0
    for name in re.findall(rf"^ *\.\. ({MARK}|code(?:-block)?:: python)$", page.read_text(), re.M):
        if name != MARK:
            number += 1
            if before == MARK:
                numbers.append(number)
        before = name
    return numbers


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_marked_program_of_the_page_is_found(page: Path) -> None:
    blocks = enumerate(blocks_of(page), 1)

    assert marked_in(page) == [number for number, block in blocks if is_marked(block)]


@pytest.mark.parametrize(
    ("page", "number"),
    [
        pytest.param(page, number, id=f"{page.stem}-{number}")
        for page in DOCS
        for number in marked_in(page)
    ],
)
def test_program_of_the_docs_runs(
    page: Path, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    run(blocks_of(page)[number - 1].astext(), "program_of_the_docs")


# -- what the pages say of the package


@pytest.mark.parametrize("page", PLAIN_PAGES, ids=lambda page: page.name)
def test_page_is_valid_restructured_text(page: Path) -> None:
    _, complaints = parse(page)

    assert complaints == ""


@pytest.mark.parametrize("page", PLAIN_PAGES, ids=lambda page: page.name)
def test_links_of_the_page_lead_somewhere(page: Path) -> None:
    document, _ = parse(page)
    links = [link.get("refuri", "") for link in document.findall(docutils.nodes.reference)]

    dead = [
        link
        for link in links
        if not re.match(r"https?:", link) and not (page.parent / link).is_file()
    ]

    assert dead == []


#: An install by the bare name, of which the package index has only versions of another program.
BARE_INSTALL = (
    r"pip install [^`\n]*?(?<![\w/])tgext\.asyncjob(?:\[[^\]]*\])?(?![\w\[]| ?[<>=~!@]).*"
)


@pytest.mark.parametrize(
    "page",
    [*PLAIN_PAGES, *DOCS, PACKAGE / "errors.py", ROOT / "Makefile"],
    ids=lambda page: page.name,
)
def test_install_line_does_not_fetch_an_old_version_from_the_index(page: Path) -> None:
    assert re.findall(BARE_INSTALL, page.read_text(encoding="utf-8")) == []


def test_install_by_the_bare_name_is_noticed() -> None:
    bare = "pip install tgext.asyncjob\npip install 'tgext.asyncjob[sqlalchemy]'\n"
    fine = "pip install 'tgext.asyncjob[http]>=1.0.dev0'\npip install ./dist/tgext.asyncjob-1.whl\n"

    assert len(re.findall(BARE_INSTALL, bare)) == 2
    assert re.findall(BARE_INSTALL, fine) == []


def test_index_names_every_page() -> None:
    text = (ROOT / "docs" / "index.rst").read_text(encoding="utf-8")

    assert [page.stem for page in DOCS if f":doc:`{page.stem}`" not in text] == ["index"]


@pytest.mark.parametrize(
    "package", ["", ".executors", ".slackers", ".looppool", ".taskrunners", ".turbogears", ".web"]
)
def test_every_public_name_is_on_the_page_of_the_api(package: str) -> None:
    text = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    module = importlib.import_module(f"tgext.asyncjob{package}")

    section = text if package == ".turbogears" else text.partition(f"\n{module.__name__}\n---")[2]

    assert [name for name in module.__all__ if f":: {name}" not in section] == []


def test_every_option_is_documented_with_its_default() -> None:
    rows = rows_of(ROOT / "docs" / "options.rst")
    rows.pop("option")

    documented = {name: default for name, (default, _) in rows.items()}

    assert documented == {option.name: shown(option.default) for option in fields(Options)}


def test_every_option_of_a_task_is_documented_with_its_default() -> None:
    rows = rows_of(ROOT / "docs" / "tasks.rst")

    documented = {
        option.name: rows.get(option.name, [""])[0].strip('"') for option in fields(TaskOptions)
    }

    assert documented == {option.name: shown(option.default) for option in fields(TaskOptions)}


def test_every_attribute_of_a_result_is_documented() -> None:
    rows = rows_of(ROOT / "docs" / "tasks.rst")
    documented = {name for first in rows for name in re.findall(r"\w+(?=\(|,|$)", first)}

    public = {name for name in vars(TaskResult) if not name.startswith("_")}

    assert public - documented == set()


def test_every_public_name_is_documented() -> None:
    text = docs_text()
    names = [*tgext.asyncjob.__all__, "plugme", "start_async_worker"]

    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_tree_of_errors_is_that_of_the_package() -> None:
    text = (ROOT / "docs" / "errors.rst").read_text(encoding="utf-8")
    drawn = dict(re.findall(r"\+-- (\w+) +([\w.]+)", text))
    builtin = vars(builtins) | {
        "queue.Full": queue_module.Full,
        "concurrent.futures.CancelledError": concurrent.futures.CancelledError,
    }

    bases = {name: (errors.AsyncJobError, builtin[base]) for name, base in drawn.items()}

    assert bases == {
        name: found.__bases__
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.AsyncJobError)
        if found is not errors.AsyncJobError
    }


def test_numbers_in_the_docs_are_those_of_the_code() -> None:
    text = " ".join(docs_text().split())

    assert f"the last {memory.changes.MOST_ENDED} at the most" in text
    assert f"On memory the last {memory.entry.MOST_ERRORS}" in text
    assert f"the last {job_log.LINES} log lines" in text
    assert {8: "eight"}[scope.TRIES] + " times in all, also with ``max_attempts=1``" in text
    assert f"when all others have run for {DEFAULT_RESTART_POLICY.settled:g} seconds" in text
    assert {10: "ten"}[DEFAULT_RESTART_POLICY.deaths] + " such deaths in a row" in text


# -- ARCHITECTURE.md


def test_architecture_has_the_layers_that_the_imports_are_compared_with() -> None:
    table = ARCHITECTURE.partition("## Layers")[2].partition("##")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]

    named = [re.findall(r"`([\w/]+?)(?:/|\.py)`", row) for row in rows]

    assert named == [line.replace(".", "/").split() for line in LAYERS.split("\n") if line.strip()]


def test_every_file_that_the_architecture_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.(?:py|rst|txt|md))`", ARCHITECTURE)

    missing = [name for name in named if not ((PACKAGE / name).exists() or (ROOT / name).exists())]

    assert missing == []
