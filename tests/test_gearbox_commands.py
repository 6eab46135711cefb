"""The gearbox commands, on a TurboGears application as a developer's lies on disk.

What the commands do is in test_commands.py; here is how they come to the application's queue.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forked_python import OF_GEARBOX, ForkedPython, run_forked
from needs import need
from projects import PLAIN, model_source, write_project
from terminals import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

#: The longest that anything here may take. What is right comes nowhere near it.
PATIENCE_SECONDS = 30

GEARBOX = Path(sysconfig.get_path("scripts")) / "gearbox"

PROJECT = {
    "development.ini": """
        [app:main]
        use = egg:bakery
        sqlalchemy.url = sqlite:///%(here)s/bakery.db?timeout=30
        asyncjob.backend = sql
        asyncjob.threads = 0
        bakery.street = Mill Lane

        [app:serving]
        use = main
        asyncjob.threads = 2

        [app:memory]
        use = main
        asyncjob.backend = memory

        [app:closed]
        use = main
        bakery.closed = true

        [app:logging]
        use = main
        bakery.logging = its own

        [app:broken]
        use = main
        bakery.oven = none

        [loggers]
        keys = root

        [handlers]
        keys = console

        [formatters]
        keys = plain

        [logger_root]
        level = INFO
        handlers = console

        [handler_console]
        class = StreamHandler
        args = (sys.stderr,)
        formatter = plain

        [formatter_plain]
        format = log: %(message)s
        """,
    "bakery.egg-info/PKG-INFO": """
        Metadata-Version: 2.1
        Name: bakery
        Version: 1
        """,
    "bakery.egg-info/entry_points.txt": """
        [paste.app_factory]
        main = bakery.application:make_app
        """,
    "bakery.egg-info/top_level.txt": "bakery\n",
    "bakery/__init__.py": "",
    "bakery/model.py": model_source("Loaf", "loaf", key="id", column="name"),
    "bakery/jobs.py": """
        import os
        from pathlib import Path

        import tg
        from bakery.model import DBSession, Loaf

        GATE = Path(__file__).parent.parent / "gate"

        def bake(name):
            DBSession.add(Loaf(name=f"{name} of {tg.config['bakery.street']}"))

        def burn(name):
            bake(name)
            raise ValueError("burnt")

        def held():
            os.write(2, b"begun\\n")
            GATE.read_text()
            bake("held")
        """,
    "bakery/application.py": """
        import logging.config

        import tg
        from tg import FullStackApplicationConfigurator, TGController
        from tgext.asyncjob import start_async_worker
        import bakery
        from bakery import model

        class Globals:
            def __init__(self):
                if not tg.config.get("bakery.closed"):
                    start_async_worker()

        def make_app(global_conf, **app_conf):
            if "bakery.oven" in app_conf:
                raise RuntimeError("no oven")
            if "bakery.logging" in app_conf:
                logging.config.fileConfig(global_conf["__file__"])
            configurator = FullStackApplicationConfigurator()
            configurator.update_blueprint({
                **{plain},
                "package": bakery,
                "root_controller": TGController(),
                "app_globals": Globals,
                "renderers": ["json"],
                "default_renderer": "json",
                "use_sqlalchemy": True,
                "model": model,
                "DBSession": model.DBSession,
            })
            return configurator.make_wsgi_app(global_conf, app_conf)
        """,
}


class Bakery:
    """The project, and its commands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        write_project(path, PROJECT, plain=PLAIN)
        os.mkfifo(path / "gate")
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, is_forked: bool = True) -> subprocess.Popen[bytes]:
        """Start a command. is_forked: from a process that has imported TurboGears."""
        environ = {name: os.environ[name] for name in os.environ if name != "COLUMNS"}
        given: dict[str, Any] = {"cwd": self.path, "env": environ}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if is_forked:
            words = [sys.executable, GEARBOX, *command]
            process = ForkedPython(words, imports=OF_GEARBOX, **given, **pipes)
        else:
            process = subprocess.Popen([GEARBOX, *command], **given, **pipes)
        self.started.append(process)
        return process

    def run(self, *command: str, is_forked: bool = True) -> tuple[int, str, str]:
        """Run a command; return its exit code, and what it wrote to stdout and stderr."""
        process = self.start(*command, is_forked=is_forked)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, out.decode(), err.decode()

    def enqueue(self, job: str, *arguments: str) -> str:
        """Enqueue a job on the application's tables, without making the application."""
        calls = f"queue.perform(jobs.{job}, *{arguments!r})"
        script = f"""
            import sys
            sys.path.insert(0, "")
            from bakery import jobs
            from tgext.asyncjob import JobQueue
            url = "sqlite:///{self.path}/bakery.db?timeout=30"
            with JobQueue("sql", url=url) as queue:
                print({calls})
            """
        return self._python(script)

    def loaves(self) -> list[str]:
        script = f"""
            import sqlite3
            connection = sqlite3.connect("{self.path}/bakery.db")
            print(*[name for name, in connection.execute("SELECT name FROM loaf")], sep=",")
            connection.close()
            """
        return self._python(script).split(",")

    def status_of(self, uid: str) -> Any:
        _, out, _ = self.run("asyncjob-status", uid, "--json")
        [found] = json.loads(out)
        return found

    def _python(self, script: str) -> str:
        done = run_forked(
            [sys.executable, "-c", textwrap.dedent(script)], imports=OF_GEARBOX, cwd=self.path,
            text=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def bakery(tmp_path: Path) -> Iterator[Bakery]:
    need(importlib.util.find_spec("gearbox") and GEARBOX.exists(), "gearbox (pip install gearbox)")
    made = Bakery(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def read_to(process: subprocess.Popen[bytes], text: str) -> str:
    """Read what a process writes to stderr until *text* is in it."""
    assert process.stderr is not None
    fd, said = process.stderr.fileno(), b""
    while text.encode() not in said:
        ready, _, _ = select.select([fd], [], [], PATIENCE_SECONDS)
        more = os.read(fd, 65536) if ready else b""
        assert more, f"nobody said {text!r}, but:\n{said.decode()}"
        said += more
    return said.decode()


def test_worker_runs_jobs_in_the_application_of_the_ini_file(bakery):
    good, bad = bakery.enqueue("bake", "rye"), bakery.enqueue("burn", "toast")

    words = ("asyncjob-worker", "-c", "development.ini", "--burst")
    code, out, err = bakery.run(*words, is_forked=False)

    assert (code, out) == (0, "")
    assert bakery.loaves() == ["rye of Mill Lane"]
    assert f"log: job={good} attempt=1 call=bakery.jobs.bake successful" in err
    assert "2 jobs: nothing more is due" in err
    assert "1 thread, queues all" in err  # although asyncjob.threads is 0
    assert bakery.status_of(bad)["error"]["message"] == "burnt"


def test_worker_speaks_though_its_application_disables_the_loggers_that_are_there(bakery):
    bakery.enqueue("burn", "bread")

    code, _, said = bakery.run("asyncjob-worker", "--burst", "-c", "development.ini#logging")

    assert code == 0
    assert "log: worker process" in said
    assert "failed, no attempts left: burnt" in said


def test_retried_job_waits_for_a_worker_though_the_application_would_run_it(bakery):
    uid = bakery.enqueue("burn", "toast")
    bakery.run("asyncjob-worker", "--once")

    retry = bakery.run("asyncjob-retry", "-c", "development.ini#serving", uid)
    waiting = bakery.status_of(uid)
    cancel = bakery.run("asyncjob-cancel", uid)
    purge = bakery.run("asyncjob-purge", "--status", "CANCELLED")

    assert retry[:2] == (0, f"{uid} waits again\n")
    assert (waiting["status"], waiting["attempts"]) == ("READY", 1)
    assert cancel[:2] == (0, f"{uid} is cancelled\n")
    assert purge[:2] == (0, "removed 1 job\n")


def test_queue_of_the_application_is_watched_at_a_terminal(bakery):
    uid = bakery.enqueue("bake", "bun")
    terminal = Terminal([str(GEARBOX), "asyncjob-status", "--watch"], bakery.path)
    try:
        terminal.until("READY 1", "default", "no worker is alive")
        terminal.press("q")

        assert terminal.ended() == 0
        assert terminal.is_as_before
        assert "Traceback" not in terminal.drawn
    finally:
        terminal.close()
    assert bakery.status_of(uid)["status"] == "READY"


def test_two_processes_drain_at_a_sigterm(bakery):
    uid = bakery.enqueue("held")
    worker = bakery.start("asyncjob-worker", "--processes", "2", "--threads", "2")
    said = read_to(worker, "\nbegun")

    worker.send_signal(signal.SIGTERM)
    said += read_to(worker, "received SIGTERM: it claims no more jobs")
    (bakery.path / "gate").write_text("go on")
    _, rest = worker.communicate(timeout=PATIENCE_SECONDS)

    assert worker.returncode == 0
    assert bakery.loaves() == ["held of Mill Lane"]
    assert said.count("2 threads, queues all") >= 1
    assert f"job={uid} attempt=1" in said + rest.decode()


def test_schema_is_looked_at_before_the_application_makes_the_tables(bakery):
    none = bakery.run("asyncjob-schema", "-c", "development.ini")
    still_none = bakery.run("asyncjob-schema", "--sql")
    made = bakery.run("asyncjob-schema", "--create")

    assert none[:2] == (
        1,
        "found: no tables\nexpected: version 3\n"
        "make them: --create, or execute what --sql prints\n",
    )  # fmt: skip
    assert still_none[0] == 0
    assert "CREATE TABLE asyncjob_jobs (" in still_none[1]
    assert made[:2] == (0, "made the tables in version 3\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-c", "no.ini"), "expected the .ini file of an application (-c), got 'no.ini': no file"),
        (("-c", "development.ini#memory"), "got asyncjob.backend = memory: it keeps them in"),
        (("-c", "development.ini#closed"), "expected one application with a job queue in dev"),
        (("-c", "development.ini#no"), "development.ini#no: No section 'no' (prefixed by 'app'"),
        (("--unknown",), "unrecognized arguments: --unknown"),
    ],
)
def test_ini_file_that_leads_to_no_queue_is_told_with_the_way_out(bakery, arguments, complaint):
    code, out, err = bakery.run("asyncjob-status", *arguments)

    assert (code, out) == (2, "")
    assert complaint in err
    assert "Traceback" not in err


def test_application_that_raises_while_it_is_made_is_shown_with_its_traceback(bakery):
    code, out, err = bakery.run("asyncjob-status", "-c", "development.ini#broken")

    assert (code, out) == (2, "")
    assert err.endswith(
        "RuntimeError: no oven\nthe application cannot be loaded; the lines above say why\n"
    )
