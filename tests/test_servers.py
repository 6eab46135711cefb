"""Promises 4 and 5 under real servers: jobs run in the process that serves, and a SIGTERM drains.

A small project is written for each test, as a developer's would lie on disk, and served from
there. Its jobs leave notes beside it, which tell in what process they were made; files that are
pipes hold whatever reads them until the test writes.
"""

from __future__ import annotations

import functools
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from forked_python import OF_SERVERS, ForkedPython
from needs import need
from projects import PLAIN, write_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

#: The longest that anything here may take. What is right comes nowhere near it.
PATIENCE_SECONDS = 30

SCRIPTS = Path(sysconfig.get_path("scripts"))

PROJECT = {
    "development.ini": """
        [server:main]
        use = egg:gearbox#wsgiref
        host = 127.0.0.1
        port = {port}

        [app:main]
        use = egg:served
        asyncjob.threads = 2
        """,
    "served.egg-info/PKG-INFO": """
        Metadata-Version: 2.1
        Name: served
        Version: 1
        """,
    "served.egg-info/SOURCES.txt": """
        served/__init__.py
        served/websetup.py
        """,
    "served.egg-info/entry_points.txt": """
        [paste.app_factory]
        main = served.application:make_app

        [gearbox.plugins]
        turbogears-devtools = tg.devtools
        """,
    "served.egg-info/top_level.txt": "served\n",
    "served/__init__.py": "",
    "served/version.py": "VERSION = 1\n",
    "served/lib/__init__.py": "",
    "served/lib/helpers.py": "",
    "served/lib/base.py": "",
    "served/jobs.py": """
        import json, os, threading
        from pathlib import Path

        HERE = Path(__file__).parent.parent

        def threads():
            return [each.name for each in threading.enumerate() if each.name.startswith("asyncjob")]

        def note(name):
            made = HERE / f"{name}.being-written"
            made.write_text(json.dumps({"pid": os.getpid(), "threads": threads()}))
            made.rename(HERE / f"{name}.note")

        def wrong(name):
            raise ValueError(f"a wrong job: {name}")

        def held(name):
            note(f"{name} begun")
            (HERE / "job gate").read_text()
            note(f"{name} ended")
        """,
    "served/application.py": """
        import os
        import tg
        from tg import FullStackApplicationConfigurator, TGController, expose
        from tgext.asyncjob import UnknownJob, asyncjob_perform, asyncjob_result
        from tgext.asyncjob import start_async_worker
        import served
        from served import jobs
        from served.version import VERSION

        class Root(TGController):
            @expose("json")
            def index(self):
                return {"pid": os.getpid(), "threads": jobs.threads(), "version": VERSION}

            @expose("json")
            def perform(self, name, job="note"):
                uid = asyncjob_perform(getattr(jobs, job), name)
                return {"pid": os.getpid(), "uid": uid}

            @expose("json")
            def busy(self, name):
                "Serve this until the test lets it go, so that another process serves the rest."
                answer = self.perform(name)
                jobs.note(f"{name} busy")
                (jobs.HERE / f"{name} gate").read_text()
                return answer

            @expose("json")
            def ask(self, uid):
                try:
                    return {"pid": os.getpid(), "job": asyncjob_result(uid)}
                except UnknownJob as error:
                    return {"pid": os.getpid(), "unknown": str(error)}

        class Globals:
            def __init__(self):
                start_async_worker()

        base_config = FullStackApplicationConfigurator()
        base_config.update_blueprint({
            **{plain},
            "package": served,
            "root_controller": Root(),
            "app_globals": Globals,
            "renderers": ["json"],
            "default_renderer": "json",
            "serve_static": False,
        })

        def make_app(global_conf, **app_conf):
            return base_config.make_wsgi_app(global_conf, app_conf)
        """,
    "served/websetup.py": """
        from served import jobs
        from served.application import base_config

        def setup_app(command, conf, vars):
            conf = base_config.configure(conf.global_conf, conf.local_conf)
            base_config.setup(conf)
            jobs.note("setup")
        """,
    "served/wsgi.py": """
        import atexit, json, os
        from served import jobs
        from served.application import make_app

        options = {"asyncjob.threads": "2", **json.loads(os.environ["OPTIONS"])}
        application = make_app({}, **options)

        # What is registered last is called first: before the queue is closed.
        atexit.register(lambda: jobs.note(f"process {os.getpid()} exits"))
        """,
    "gunicorn_conf.py": """
        from served import jobs

        def when_ready(server):
            jobs.note("master is ready")

        def on_exit(server):
            jobs.note("master exits")
        """,
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Project:
    """The project on disk, what its jobs have noted, and the programs that are run in it.

    is_forked: whether those in Python come from a process that has imported what they need.
    """

    is_forked = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_port()
        self.running: list[subprocess.Popen[bytes]] = []
        self.environ = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
            "HOME": str(path),  # gunicorn keeps a socket there
            "PYTHONPATH": str(path),
            "OPTIONS": "{}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # or a module that is changed within a second is stale
        }
        write_project(path, PROJECT, port=self.port, plain=PLAIN)
        self.make_gate("job gate")

    # -- programs

    def start(self, *command: object) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own; ``output`` tells what it says."""
        words = [str(word) for word in command]
        start: Any = subprocess.Popen
        if self.is_forked and words[0] == sys.executable:
            start = functools.partial(ForkedPython, imports=OF_SERVERS)
        with (self.path / "output").open("ab") as output:
            started = start(
                words,
                cwd=self.path,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(started)
        return started

    def serve(self, *command: object) -> subprocess.Popen[bytes]:
        """Start a server and return when it answers."""
        server = self.start(*command)
        self.until(lambda: self.get("/") if server.poll() is None else {}, "the server answers")
        assert server.poll() is None, self.output
        return server

    def run(self, *command: object) -> None:
        """Run a program to its end."""
        ended = self.start(*command).wait(PATIENCE_SECONDS)
        assert ended == 0, self.output

    @property
    def output(self) -> str:
        """What the programs have said."""
        return (self.path / "output").read_text(errors="replace")

    def close(self) -> None:
        """End every program, and the children that it left, which are in its session."""
        for each in self.running:
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait(PATIENCE_SECONDS)

    # -- waiting for another process

    def until(self, condition, what: str):
        """Return what *condition* returns once that is true."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = condition()
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited in vain until {what}; the output:\n{self.output}")

    def says(self, text: str) -> None:
        """Wait until a program says *text*."""
        self.until(lambda: text in self.output, f"it says {text!r}")

    def note(self, name: str):
        """Wait for a note and return it."""
        file = self.path / f"{name}.note"
        self.until(file.exists, f"there is a note {name!r}")
        return json.loads(file.read_text())

    def has_note(self, name: str) -> bool:
        return (self.path / f"{name}.note").exists()

    def make_gate(self, gate: str) -> None:
        """Make a pipe that holds whoever reads it."""
        os.mkfifo(self.path / gate)

    def open_gate(self, gate: str) -> None:
        """Let the one that reads the gate go on; fail if nobody does."""
        self.until(lambda: _opened(self.path / gate), f"somebody is held by {gate!r}")

    # -- asking the server

    def get(self, path: str, **params: str):
        """Ask for a page; None where nobody answers (yet)."""
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(params)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
                content = answer.read()
            return json.loads(content) if content else None  # it was ended before it said more
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{url}: {error}; the output:\n{self.output}") from None
        except (OSError, http.client.HTTPException):
            return None


def _opened(gate: Path) -> bool:
    try:
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # ENXIO: nobody reads it
        return False
    return True


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    try:
        yield made
    finally:
        made.close()


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def gunicorn(project, *options):
    need(installed("gunicorn"), "gunicorn (pip install gunicorn)")
    return project.serve(
        sys.executable, "-m", "gunicorn", "served.wsgi:application",
        "--bind", f"127.0.0.1:{project.port}", "--config", "gunicorn_conf.py",
        "--graceful-timeout", "20", "--access-logfile", "-", *options,
    )  # fmt: skip


def uwsgi(project, *options):
    program = SCRIPTS / "uwsgi"
    need(program.exists(), "uWSGI (pip install uwsgi; needs gcc)")
    return project.serve(
        program, "--http-socket", f"127.0.0.1:{project.port}", "--module", "served.wsgi",
        "--home", sys.prefix, "--need-app", "--enable-threads", "--die-on-term",
        # what uWSGI itself sometimes takes for ever to end, its master kills
        "--buffer-size", "8192", "--worker-reload-mercy", "20", *options,
    )  # fmt: skip


class Held:
    """A request that a process is busy with until it is released."""

    def __init__(self, project: Project, name: str) -> None:
        self._project = project
        self._gate = f"{name} gate"
        self._answers: list = []
        project.make_gate(self._gate)
        self._thread = threading.Thread(
            target=lambda: self._answers.append(project.get("/busy", name=name)), daemon=True
        )
        self._thread.start()
        self.pid = project.note(f"{name} busy")["pid"]

    def release(self):
        """Let it end, and return the answer."""
        self._project.open_gate(self._gate)
        self._thread.join(PATIENCE_SECONDS)
        assert self._answers, self._project.output
        return self._answers[0]


def assert_jobs_run_where_they_are_enqueued(project):
    """Keep both processes busy, each with a request that enqueues a job."""
    held = [Held(project, "one"), Held(project, "two")]
    answers = [request.release() for request in held]

    assert held[0].pid != held[1].pid
    assert [answer["pid"] for answer in answers] == [request.pid for request in held]
    for name, request in zip(("one", "two"), held, strict=True):
        note = project.note(name)
        assert note["pid"] == request.pid
        assert note["threads"]

    # A third request keeps one of them from answering for its own job: the other one must.
    third = Held(project, "three")
    [asked] = [answer for answer in answers if answer["pid"] == third.pid]
    other = project.get("/ask", uid=asked["uid"])
    third.release()
    assert other["pid"] != third.pid
    assert "set asyncjob.backend = sql" in other["unknown"]
    assert "asyncjob.backend is memory" in project.output  # said before anyone asked


def assert_a_sigterm_drains(project, server):
    """End the server while a job is held: its process waits for it, and it runs to its end."""
    project.get("/perform", name="long", job="held")
    pid = project.note("long begun")["pid"]
    # A process of uWSGI's that is busy with a request exits without another line of Python.
    project.says("GET /perform?name=long")

    server.terminate()
    project.note(f"process {pid} exits")
    project.open_gate("job gate")
    server.wait(PATIENCE_SECONDS)

    assert project.has_note("long ended"), project.output


# -- gunicorn


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["not preloaded", "preloaded"])
def test_gunicorn_worker_runs_its_jobs_finishes_them_after_a_sigterm_and_its_master_runs_none(
    project, options
):
    server = gunicorn(project, "--workers", 2, *options)

    assert_jobs_run_where_they_are_enqueued(project)
    assert_a_sigterm_drains(project, server)
    for moment in ("master is ready", "master exits"):
        assert project.note(moment) == {"pid": server.pid, "threads": []}


def test_gunicorn_worker_ends_after_a_sigterm_though_its_job_does_not(project):
    project.environ["OPTIONS"] = '{"asyncjob.drain_timeout": "0.2"}'
    server = gunicorn(project, "--workers", 1)
    project.get("/perform", name="long", job="held")
    project.note("long begun")

    server.terminate()
    server.wait(PATIENCE_SECONDS)

    assert not project.has_note("long ended")
    assert "lost with this process's memory" in project.output


def test_gunicorn_worker_has_its_threads_with_its_first_request(project):
    project.is_forked = False
    server = gunicorn(project, "--workers", 1, "--preload")

    assert len(project.get("/")["threads"]) == 3
    server.terminate()
    server.wait(PATIENCE_SECONDS)


# -- gearbox


def gearbox(*command):
    need(installed("gearbox", "hupper"), "gearbox (pip install gearbox)")
    return (sys.executable, "-c", "from gearbox.main import main; main()", *command)


def change_and_reload(project, version):
    """Change a module that is served; return the process that serves it then."""
    module = project.path / "served" / "version.py"
    before = project.get("/")["pid"]
    module.write_text(f"VERSION = {version}\n")

    def served():
        answer = project.get("/")
        if answer is not None and answer["pid"] == before:
            os.utime(module)  # the reloader may have begun to watch it only just now
        return answer if answer is not None and answer["version"] == version else None

    return project.until(served, "the changed module is served")["pid"]


def test_gearbox_serve_reloads_a_changed_module_and_runs_jobs_before_and_after(project):
    project.is_forked = False
    project.serve(*gearbox("serve", "--reload"))
    before = project.get("/perform", name="before")
    assert project.note("before")["pid"] == before["pid"]

    served_by = change_and_reload(project, 2)
    after = project.get("/perform", name="after")

    assert after["pid"] == served_by != before["pid"]
    assert project.note("after")["pid"] == after["pid"]


#: Each reload starts a server anew, so that as few deaths as can be are too many.
MAX_CRASHES = 1


@pytest.mark.timeout(110)
def test_long_job_outlives_more_reloads_than_it_may_end_workers(project):
    with (project.path / "development.ini").open("a") as ini:
        ini.write("asyncjob.backend = sql\nasyncjob.url = sqlite:///%(here)s/jobs.db\n")
        ini.write(f"asyncjob.max_crashes = {MAX_CRASHES}\n")
    project.serve(*gearbox("serve", "--reload"))
    enqueued = project.get("/perform", name="long", job="held")
    run_by = [project.note("long begun")["pid"]]

    reloads = MAX_CRASHES + 1
    for version in range(2, 2 + reloads):
        process = change_and_reload(project, version)
        project.until(
            lambda pid=process: project.note("long begun")["pid"] == pid, "the job begins anew"
        )
        run_by.append(process)
    project.open_gate("job gate")
    project.note("long ended")
    job = project.until(
        lambda: (
            (asked := project.get("/ask", uid=enqueued["uid"])["job"])["status"] != "RUNNING"
            and asked
        ),
        "the job has ended",
    )

    assert len(set(run_by)) == 1 + reloads
    assert (job["status"], job["error"]) == ("SUCCESSFUL", None)


def test_gearbox_setup_app_starts_no_thread(project):
    project.run(*gearbox("setup-app"))

    assert project.note("setup")["threads"] == []


def test_gearbox_tgshell_starts_no_thread_until_it_enqueues(project):
    need(installed("devtools"), "tg.devtools (pip install tg.devtools)")
    script = """
        from served import jobs
        from tgext.asyncjob import asyncjob_perform, asyncjob_result

        jobs.note("shell")
        uid = asyncjob_perform(jobs.note, "job")
        asyncjob_result(uid).wait(10)
        """
    write_project(project.path, {"check.py": script})

    project.run(*gearbox("tgshell", "check.py"))

    assert project.note("shell")["threads"] == []
    assert project.note("job")["threads"]


# -- uWSGI

FORKED = ["--master", "--processes", 2]
LAZY = [*FORKED, "--lazy-apps"]
# Either option has uWSGI tell Python of a fork. Up to 2.0.31 the first one aborts every child on
# Python 3.13 and newer (unbit/uwsgi#2710): it unlocks what was not locked before the fork.
TELL = "--py-call-osafterfork" if sys.version_info < (3, 13) else "--py-call-uwsgi-fork-hooks"
TOLD = [*FORKED, TELL]


def test_uwsgi_runs_jobs_in_its_one_process_and_finishes_them_after_a_sigterm(project):
    server = uwsgi(project)
    answer = project.get("/perform", name="job")

    assert project.note("job")["pid"] == answer["pid"]
    assert len(project.get("/")["threads"]) == 3
    assert_a_sigterm_drains(project, server)


@pytest.mark.parametrize(
    "options", [FORKED, TOLD, LAZY], ids=["forked", "forked and told", "lazy apps"]
)
def test_uwsgi_runs_jobs_where_they_are_enqueued_and_finishes_them_after_a_sigterm(
    project, options
):
    server = uwsgi(project, *options)

    assert_jobs_run_where_they_are_enqueued(project)
    assert_a_sigterm_drains(project, server)
