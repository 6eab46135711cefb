"""A real ``gearbox quickstart`` on disk, and what docs/tutorial.rst writes into it."""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from forked_python import OF_GEARBOX, run_forked
from needs import need
from test_docs import blocks_of

DOCS = Path(__file__).resolve().parent.parent / "docs"
TUTORIAL = DOCS / "tutorial.rst"

#: What a quickstart application asks for in its pyproject.toml; named as they are imported.
NEEDED = (
    "gearbox", "devtools", "alembic", "beaker", "kajiki", "repoze.who", "webhelpers2", "babel",
    "paste.deploy", "zope.sqlalchemy",
)  # fmt: skip

#: What the programs of a project import, besides its own modules.
OF_PROJECTS = (
    "alembic.command beaker.middleware kajiki paste.deploy pytest repoze.who.config"
    f" webhelpers2.html webtest {OF_GEARBOX}"
)

GEARBOX = ("-c", "from gearbox.main import main; main()")


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not
        return False


class Project:
    """The project on disk, and the programs that are run in it.

    is_forked: whether those come from a process that has imported what they need.
    """

    is_forked = True

    #: what ``lib/app_globals.py`` was before asyncjob was switched on; set by ``make_project``
    bare_globals = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
            "PYTHONPATH": str(path),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, *command: str, fails: bool = False) -> str:
        """Run Python with a command line; gives all that it says. fails: whether it should."""
        words = [sys.executable, *command]
        given: dict[str, Any] = {
            "cwd": self.path,
            "env": self.environ,
            "stdin": subprocess.DEVNULL,
            "text": True,
            "timeout": 50,
        }
        if self.is_forked:
            done = run_forked(words, imports=OF_PROJECTS, **given)
        else:
            done = subprocess.run(words, capture_output=True, check=False, **given)
        said = done.stdout + done.stderr
        assert bool(done.returncode) is fails, said
        return said

    def gearbox(self, *command: str) -> str:
        return self.run(*GEARBOX, *command)

    def pytest(self, *arguments: str, fails: bool = False) -> str:
        """Run the project's own tests; without the options that ask for pytest-cov."""
        return self.run("-m", "pytest", "-o", "addopts=", "-q", *arguments, fails=fails)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace what must stand there."""
        text = (self.path / file).read_text()
        assert old in text, f"{file} of a quickstart has no {old!r} any more"
        (self.path / file).write_text(text.replace(old, new))

    def autogenerate(self) -> str:
        """Let Alembic propose a migration; gives its ``upgrade()``."""
        self.gearbox("migrate", "-c", "development.ini", "autogenerate", "what is new")
        [made] = (self.path / "migration" / "versions").glob("*.py")
        upgrade = made.read_text().partition("def upgrade():")[2].partition("def downgrade():")[0]
        made.unlink()
        return upgrade

    def tables(self) -> set[str]:
        with closing(sqlite3.connect(self.path / "devdata.db")) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {name for (name,) in found}


def make_project(folder: Path) -> Project:
    """Do the first two steps of docs/tutorial.rst in *folder*."""
    missing = [module for module in NEEDED if not is_installed(module)]
    need(not missing, f"{', '.join(missing)} (pip install 'tgext.asyncjob[test]')")
    [quickstart] = re.findall(r"^    gearbox (quickstart .*)", TUTORIAL.read_text(), re.M)
    Project(folder).gearbox(*quickstart.split())
    made = Project(folder / "myapp")
    # What `pip install -e .` adds to it, without asking the network for setuptools.
    made.run("-c", "from setuptools import setup; setup()", "-q", "egg_info")
    [switched_on] = [
        block.astext()
        for block in blocks_of(TUTORIAL)
        if block.astext().startswith("from tgext.asyncjob import start_async_worker")
    ]
    app_globals = made.path / "myapp" / "lib" / "app_globals.py"
    made.bare_globals = app_globals.read_text()
    app_globals.write_text(switched_on)
    return made


def follow_tutorial(project: Project) -> None:
    """Do what docs/tutorial.rst says, word for word, up to the job's tests."""
    _, jobs, root, tests, more = (block.astext() for block in blocks_of(TUTORIAL))
    rename, job = (block.astext() for block in blocks_of(TUTORIAL, "html"))
    lines = blocks_of(TUTORIAL, "ini")[0].astext()
    head = "class RootController(BaseController):"
    imports, _, methods = root.partition(head)
    (project.path / "myapp" / "jobs.py").write_text(jobs)
    (project.path / "myapp" / "templates" / "rename.xhtml").write_text(rename)
    (project.path / "myapp" / "templates" / "job.xhtml").write_text(job)
    (project.path / "myapp" / "tests" / "functional" / "test_jobs.py").write_text(tests)
    project.edit(
        "myapp/controllers/root.py", head, f"{imports}{head}{methods}{more.partition(head)[2]}"
    )
    project.edit("test.ini", "[app:main]\n", f"[app:main]\n{lines}\n")
