"""What docs/imports.rst and docs/deploy.rst show, run: the import, the servers, the rights.

The commands are taken from the page. Only what a test cannot share with it is replaced: the port,
the name of the tables, the place of a program.
"""

from __future__ import annotations

import csv
import json
import logging
import logging.config
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docutils.nodes
import pytest
import zope.sqlalchemy
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import scoped_session, sessionmaker

from databases import url_of
from forked_python import OF_SERVERS, run_forked
from needs import need
from own_servers import CLIENT_OPTIONS
from test_docs import ROOT, docs_text, parse, run
from test_servers import SCRIPTS, Project, free_port, gearbox, installed
from tgext.asyncjob import JobQueue, asyncjob_session, options
from tgext.asyncjob.backends import sql
from tgext.asyncjob.backends.sql import SqlBackend, listener
from tgext.asyncjob.processes import supervisor
from tgext.asyncjob.worker import thread, worker

DURABLE = ROOT / "docs" / "durable.rst"
IMPORTS_PAGE = ROOT / "docs" / "imports.rst"
DEPLOY = ROOT / "docs" / "deploy.rst"

#: Seconds that a process may take to end, or a job; what is right comes nowhere near it.
PATIENCE_SECONDS = 20


def programs_of(page: Path) -> dict[str, str]:
    """The blocks of code of a page, by what the comment before each says: ``.. test: name``."""
    document, _ = parse(page)
    found = {}
    for block in document.findall(docutils.nodes.literal_block):
        before = block.parent[block.parent.index(block) - 1]
        comment = before.astext() if isinstance(before, docutils.nodes.comment) else ""
        found[comment.removeprefix("test: ")] = block.astext()
    return found


#: The programs of docs/deploy.rst, each under a name that the tests below ask for.
SHOWN = programs_of(DEPLOY)

TESTED = {
    "wsgi.py", "one process", "sql lines", "several processes", "worker lines", "worker", "uwsgi",
    "unit", "dockerfile", "pgbouncer", "postgresql grants", "mariadb grants", "backup", "logging",
    "pg_dump", "mariadb-dump",
}  # fmt: skip


def test_every_program_of_the_deployment_page_is_tested_or_says_that_it_is_not():
    assert set(SHOWN) == TESTED | {"not tried"}


def test_secrets_that_the_page_names_are_those_that_are_taken():
    from tgext.asyncjob.turbogears.plug import _SECRETS

    page = " ".join(DURABLE.read_text(encoding="utf-8").split())
    named = page.partition("the first of these options")[2].partition("Elsewhere")[0]

    assert re.findall(r"``([\w.]+)``", named) == list(_SECRETS)


def test_numbers_of_sql_in_the_pages_are_those_of_the_code():
    pages = " ".join(docs_text().split())

    assert f"The job waits for {sql.ELSEWHERE_SECONDS:g} seconds" in pages
    assert {0.5: "at most once in half a second"}[sql.STANDING_SECONDS] in pages
    assert {0.1: "those of the last tenth of a second"}[thread.RELEASE_SECONDS] in pages
    assert worker.RESCUE_SECONDS < 2
    assert "within two seconds" in pages


# -- the import that can be interrupted

#: Enqueues an import and runs it until its power fails.
IMPORTS = """
    import os, signal, sys
    import people
    from tgext.asyncjob import JobQueue

    url, path, moment = sys.argv[1:]

    def power_fails():
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "after the commit":
        def reports(done, total):
            if done == 20:
                power_fails()
        people.asyncjob_set_progress = reports
    else:
        class Transaction:
            commits = 0
            def commit(self):
                self.commits += 1
                if self.commits == 3:
                    people.asyncjob_session().flush()
                    power_fails()
                transaction.commit()
        transaction, people.transaction = people.transaction, Transaction()

    with JobQueue("sql", url=url, threads=0) as queue:
        people.Base.metadata.create_all(queue.session.get_bind())
        print(queue.perform(people.import_people, path, part=10), flush=True)
        queue.run_pending()
    """


@pytest.mark.parametrize("moment", ["after the commit", "before the next commit"])
def test_import_of_the_page_that_is_interrupted_after_its_second_part_has_each_row_once(
    tmp_path, monkeypatch, moment
):
    source = programs_of(IMPORTS_PAGE)["import"]
    (tmp_path / "people.py").write_text(source, encoding="utf-8")
    (tmp_path / "imports.py").write_text(textwrap.dedent(IMPORTS), encoding="utf-8")
    path, url = tmp_path / "people.csv", f"sqlite:///{tmp_path}/people.db?timeout=30"
    names = [f"person {number}" for number in range(35)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["name"], *([name] for name in names)])

    died = run_forked(
        [sys.executable, "imports.py", url, str(path), moment],
        imports=OF_SERVERS, cwd=tmp_path, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    people: Any = run(source, "people")
    monkeypatch.setitem(sys.modules, "people", people)
    with JobQueue("sql", url=url, threads=0) as queue:
        engine = queue.session.get_bind()
        with engine.connect() as connection:
            before = connection.execute(select(people.Person.name)).scalars().all()
        ran = queue.run_pending()
        result = queue.result(died.stdout.strip())
        with engine.connect() as connection:
            after = connection.execute(select(people.Person.name)).scalars().all()

    assert died.returncode == -signal.SIGKILL, died.stderr
    assert sorted(before) == sorted(names[:20])
    assert ran == 1
    assert result.status == "SUCCESSFUL"
    assert [error.exception_class_path for error in result.errors] == [
        "tgext.asyncjob.errors.WorkerCrashed"
    ]
    assert sorted(after) == sorted(names)
    assert result.progress[::2] == (35, 35)


# -- servers


class Site(Project):
    """A project whose .ini file holds the lines of the page, on a SQLite file."""

    def __init__(self, path: Path, lines: str) -> None:
        super().__init__(path)
        (path / "wsgi.py").write_text(SHOWN["wsgi.py"], encoding="utf-8")
        (path / "production.ini").write_text(
            f"[app:main]\nuse = egg:served\n{lines}\n"
            "asyncjob.url = sqlite:///%(here)s/jobs.db?timeout=30\n"
            "asyncjob.secret = swordfish\n"
        )

    def command(self, name: str) -> list[str]:
        """A command of the page as this machine has it."""
        program, *words = shlex.split(SHOWN[name].replace("8080", str(self.port)))
        return [*PROGRAMS[program](), *words]

    def answers(self, uid: str, processes: int = 1) -> dict[int, Any]:
        """What so many processes say of a job."""
        found: dict[int, Any] = {}

        def all_have_answered() -> bool:
            answer = self.get("/ask", uid=uid)
            found[answer["pid"]] = answer
            return len(found) >= processes

        self.until(all_have_answered, f"{processes} processes answer")
        return found


def _gunicorn() -> list[str]:
    need(installed("gunicorn"), "gunicorn (pip install gunicorn)")
    return [sys.executable, "-m", "gunicorn"]


def _uwsgi() -> list[str]:
    need((SCRIPTS / "uwsgi").exists(), "uWSGI (pip install uwsgi; needs gcc)")
    return [str(SCRIPTS / "uwsgi"), "--home", sys.prefix]


PROGRAMS = {
    "gunicorn": _gunicorn,
    "uwsgi": _uwsgi,
    "gearbox": lambda: [str(word) for word in gearbox()],
    "python": lambda: [sys.executable],
}


@contextmanager
def site(path: Path, lines: str) -> Iterator[Site]:
    made = Site(path, lines)
    try:
        yield made
    finally:
        made.close()


def assert_drains(
    project: Site, server: subprocess.Popen[bytes], *, is_uwsgi: bool = False
) -> None:
    """End it while a job is held: the job runs to its end."""
    project.get("/perform", name="long", job="held")
    project.note("long begun")
    if is_uwsgi:  # a process that is busy with a request exits without another line of Python
        project.says("GET /perform?name=long")

    server.terminate()
    project.open_gate("job gate")

    assert server.wait(PATIENCE_SECONDS) == 0, project.output
    assert project.has_note("long ended"), project.output


@pytest.mark.slow
def test_one_process_of_gunicorn_runs_its_jobs_in_memory(tmp_path):
    with site(tmp_path, "") as project:
        ini = project.path / "production.ini"
        ini.write_text("[app:main]\nuse = egg:served\n")
        server = project.serve(*project.command("one process"))

        answer = project.get("/perform", name="job")

        assert project.note("job")["pid"] == answer["pid"]
        assert_drains(project, server)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["several processes", "uwsgi"])
def test_several_processes_on_sql_know_each_others_jobs(tmp_path, command):
    with site(tmp_path, SHOWN["sql lines"]) as project:
        server = project.serve(*project.command(command))

        uid = project.get("/perform", name="job")["uid"]
        project.note("job")
        answers = project.answers(uid, processes=2)

        assert {answer["job"]["id"] for answer in answers.values()} == {uid}
        assert_drains(project, server, is_uwsgi=command == "uwsgi")


@pytest.mark.slow
def test_separate_workers_run_the_jobs_of_a_server_that_runs_none(tmp_path):
    with site(tmp_path, SHOWN["worker lines"]) as project:
        server = project.serve(*project.command("several processes"))
        workers = project.start(*project.command("worker"))

        answer = project.get("/perform", name="job")
        ran_by = project.note("job")["pid"]

        assert ran_by not in (answer["pid"], server.pid, workers.pid)
        assert project.get("/")["threads"] == []
        assert_drains(project, workers)
        server.terminate()
        assert server.wait(PATIENCE_SECONDS) == 0


#: The logging of an .ini file, with the section of the page in it.
LOGGING = (
    "[loggers]\nkeys = root, asyncjob\n[handlers]\nkeys = console\n"
    "[formatters]\nkeys = plain\n[logger_root]\nlevel = WARN\nhandlers = console\n"
    "[handler_console]\nclass = StreamHandler\nargs = (sys.stderr,)\nformatter = plain\n"
    "[formatter_plain]\nformat = at %(asctime)s: %(levelname)s %(message)s\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("is_set_up", [True, False], ids=["logging set up", "not set up"])
@pytest.mark.parametrize("command", ["one process", "several processes", "uwsgi"])
def test_failed_job_leaves_a_line_in_the_log_of_the_server(tmp_path, command, is_set_up):
    with site(tmp_path, SHOWN["sql lines"]) as project:
        if is_set_up:
            with (tmp_path / "production.ini").open("a") as ini:
                ini.write(f"{LOGGING}{SHOWN['logging']}\n")
        project.serve(*project.command(command))

        uid = project.get("/perform", name="first", job="wrong")["uid"]
        project.get("/perform", name="second")
        project.says(f"job={uid} attempt=1 call=served.jobs.wrong failed, no attempts left")
        project.says("ValueError: a wrong job: first")

        if is_set_up:
            project.says("ERROR job=")
            project.says("call=served.jobs.note successful after")


@pytest.mark.slow
def test_tables_are_made_by_the_command_where_the_application_may_not(tmp_path):
    lines = f"{SHOWN['worker lines']}\nasyncjob.create_tables = false"
    with site(tmp_path, lines) as project:
        command = [*gearbox("asyncjob-schema", "-c", "production.ini")]

        project.run(*command)
        project.run(*command, "--create")
        project.run(*command)

    said = re.findall(r"there is no file|made the tables|found: .*", project.output)
    assert said == ["there is no file", "made the tables", "found: version 3"]


def test_unit_and_dockerfile_start_the_workers_as_the_page_does():
    [started] = re.findall(r"^ExecStart=\S+/bin/(.*)$", SHOWN["unit"], re.M)

    assert shlex.split(started) == shlex.split(SHOWN["worker"])
    assert json.loads(SHOWN["dockerfile"].removeprefix("CMD ")) == shlex.split(SHOWN["worker"])


def test_a_default_drain_fits_into_what_systemd_and_docker_grant():
    drain = options.Options().drain_timeout + supervisor.DEFAULT_RESTART_POLICY.margin
    [granted] = re.findall(r"^TimeoutStopSec=(\d+)$", SHOWN["unit"], re.M)
    page = DEPLOY.read_text(encoding="utf-8")

    assert drain < 10 < int(granted)
    assert f"the default ``drain_timeout`` of {options.Options().drain_timeout:g}" in page
    assert "``KillMode=mixed``" in page
    assert 1.25 * listener.POLL_SECONDS[1] <= 2  # with its spread
    assert "polls for new jobs, at least every 2 seconds" in " ".join(page.split())


def test_lines_for_logging_are_a_section_that_logging_takes(tmp_path):
    ini = tmp_path / "production.ini"
    ini.write_text(
        "[loggers]\nkeys = root, asyncjob\n[handlers]\nkeys =\n[formatters]\nkeys =\n"
        "[logger_root]\nhandlers =\n" + SHOWN["logging"] + "\n"
    )
    logger = logging.getLogger("tgext.asyncjob")
    root, level = logging.getLogger(), logger.level
    kept = root.handlers[:], root.level
    try:
        logging.config.fileConfig(ini, disable_existing_loggers=False)
        assert logger.level == logging.INFO
    finally:
        root.handlers[:], root.level = kept
        logger.setLevel(level)


# -- a backup


def waits_at(gate: str) -> str:
    """Wait until somebody writes into a pipe, and return that."""
    return Path(gate).read_text(encoding="utf-8")


def until(condition: Callable[[], Any]) -> None:
    """Return when *condition* holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)  # what another process, or time, does nobody tells


@pytest.mark.slow
def test_backup_of_a_database_in_use_has_the_jobs_that_waited_and_that_ran(tmp_path):
    os.mkfifo(tmp_path / "gate")
    url = f"sqlite:///{tmp_path}/app.db?timeout=30"
    with JobQueue("sql", url=url, threads=1, lease=1) as queue:
        queue.start_worker()
        running = queue.perform(waits_at, str(tmp_path / "gate"))
        with (tmp_path / "gate").open("w") as gate:  # which waits for whoever reads there
            waiting = queue.perform(divmod, 7, 2)
            done = subprocess.run(
                ["sh", "-c", SHOWN["backup"].replace("python", sys.executable, 1)],
                cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
            )  # fmt: skip
            gate.write("go")
        queue.result(running).wait(PATIENCE_SECONDS)
    (tmp_path / "gate").unlink()
    (tmp_path / "gate").write_text("open")

    assert done.returncode == 0, done.stderr
    restored = f"sqlite:///{tmp_path}/backup.db?timeout=30"
    with JobQueue("sql", url=restored, threads=0, lease=1) as queue:
        assert queue.run_pending() == 1
        assert queue.result(waiting).return_value == (3, 1)
        assert queue.result(running).status == "RUNNING"  # as it was when it was copied
        until(lambda: queue.backend.prune() or queue.run_pending() == 1)
        assert queue.result(running).return_value == "open"


# -- servers of databases


class Given:
    """A prefix of its own in a server's database, and the tables, dropped in the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"docs_{uuid.uuid4().hex[:8]}"
        self.prefix = f"{self.name}_"
        self.engine: Engine = create_engine(url, isolation_level="AUTOCOMMIT")
        backend = SqlBackend(self.engine, prefix=self.prefix)
        backend.schema.check(create=True)
        backend.close()
        self.tables = backend.tables

    def does(self, *statements: str) -> list[Any]:
        """Execute statements; return the rows of the last one."""
        with self.engine.connect() as connection:
            for statement in statements:
                done = connection.execute(text(statement))
            return list(done.all()) if done.returns_rows else []

    def queue(self, **options: Any) -> JobQueue:
        return JobQueue("sql", table_prefix=self.prefix, secret="swordfish", **options)


@contextmanager
def given(kind: str) -> Iterator[Given]:
    made = Given(url_of(kind, Path()))
    try:
        yield made
    finally:
        made.tables.metadata.drop_all(made.engine)
        made.engine.dispose()


@contextmanager
def limited_role(database: Given, kind: str) -> Iterator[str]:
    """A role that may do what the page grants and nothing else; gives a URL for it."""
    hosts = [""] if kind == "postgresql" else ["@'127.0.0.1'", "@'localhost'"]
    log_in = " LOGIN" if kind == "postgresql" else ""
    grants = SHOWN[f"{kind} grants"].replace("asyncjob_", database.prefix)
    database.does(*(f"CREATE USER {database.name}{host}{log_in}" for host in hosts))
    try:
        for host in hosts:
            granted = grants.replace("TO myapp", f"TO {database.name}{host}")
            database.does(*filter(str.strip, granted.split(";")))
        yield database.url.replace("//postgres@", f"//{database.name}@").replace(
            "//root@", f"//{database.name}@"
        )
    finally:
        if kind == "postgresql":
            database.does(f"DROP OWNED BY {database.name}")
        database.does(*(f"DROP USER {database.name}{host}" for host in hosts))


@pytest.mark.slow
@pytest.mark.parametrize("create_tables", [True, False])
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_rights_of_the_page_suffice_once_the_tables_are_there(kind, create_tables):
    with (
        given(kind) as database,
        limited_role(database, kind) as url,
        database.queue(url=url, create_tables=create_tables) as queue,
    ):
        queue.start_worker()
        done = queue.result(queue.perform(divmod, 7, 2)).wait(PATIENCE_SECONDS)
        failed = queue.result(queue.perform(divmod, 7, 0)).wait(PATIENCE_SECONDS)
        failed.retry()
        again = failed.wait(PATIENCE_SECONDS)
        removed = queue.backend.purge([done.id])

    assert done.return_value == (3, 1)
    assert len(again.errors) == 2
    assert removed == 1


#: The state of a connection that a job's session has.
IN_A_JOB = "idle in transaction"


def held(gate: str) -> None:
    """Use the session, and keep it until there is a byte for this job in a pipe."""
    uses_the_session()
    with Path(gate).open("rb", buffering=0) as pipe:
        pipe.read(1)


def test_connections_of_a_process_are_those_of_the_page(tmp_path):
    """One listens, one is the heartbeat's, and each running job has its session's; the rest are
    at most as many as the pool keeps."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with given("postgresql") as database:
        url = f"{database.url}?application_name={database.name}"
        pool_size = 5
        count = (
            f"SELECT query, state FROM pg_stat_activity WHERE application_name = '{database.name}'"
        )
        with database.queue(url=url, threads=3) as queue:
            assert len(database.does(count)) <= 2  # nothing is kept before it works
            queue.start_worker()
            uids = [queue.perform(held, str(gate)) for _ in range(3)]
            seen: list[Any] = []

            def all_are_there() -> bool:
                seen[:] = database.does(count)
                listens = any(query.startswith("LISTEN") for query, _ in seen)
                # What the pool lends beyond its size, as at a start, is closed when it comes back.
                has_settled = len(seen) <= 2 + pool_size + 3
                are_in_jobs = [state for _, state in seen].count(IN_A_JOB) == 3
                return listens and has_settled and are_in_jobs

            with gate.open("r+b", buffering=0) as pipe:  # open for both never waits
                try:
                    until(all_are_there)
                finally:
                    pipe.write(b"123")
                for uid in uids:
                    queue.result(uid).wait(PATIENCE_SECONDS)

    assert [query[:6] for query, _ in seen].count("LISTEN") == 1


# -- PgBouncer


@pytest.fixture
def pgbouncer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts it in front of PostgreSQL in a mode; gives the URL."""
    monkeypatch.delenv(CLIENT_OPTIONS, raising=False)  # it knows none of them
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    need(found, "PgBouncer (apt-get install pgbouncer)")
    url_of("postgresql", tmp_path)
    running: list[subprocess.Popen[bytes]] = []

    def start(mode: str) -> str:
        port = free_port()
        ini = tmp_path / "pgbouncer.ini"
        ini.write_text(
            "[databases]\ntest = host=127.0.0.1 user=postgres\n[pgbouncer]\nauth_type = any\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"pool_mode = {mode}\ndefault_pool_size = 20\n"
        )
        as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
        with (tmp_path / "output").open("ab") as output:
            command = [str(found), *as_nobody, str(ini)]
            running.append(subprocess.Popen(command, stdout=output, stderr=output))
        url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/test"
        engine = create_engine(url)

        def answers() -> bool:
            try:
                engine.connect().close()
            except DBAPIError:
                assert running[-1].poll() is None, (tmp_path / "output").read_text()
                return False
            return True

        until(answers)
        engine.dispose()
        return url

    yield start
    for each in running:
        each.terminate()
        each.wait(PATIENCE_SECONDS)


def run_behind(url: str, init_model: Any, caplog: Any) -> list[str]:
    """Run many jobs that use the session behind a pooler; return what was warned of."""
    session = scoped_session(sessionmaker())
    zope.sqlalchemy.register(session)
    engine = create_engine(url)
    with given("postgresql") as database:
        init_model(engine, session)
        try:
            with database.queue(session=session, threads=2) as queue:
                queue.start_worker()
                uids = [queue.perform(uses_the_session) for _ in range(30)]
                ends = [queue.result(uid).wait(PATIENCE_SECONDS).status for uid in uids]
        finally:
            session.remove()
            engine.dispose()
    assert ends == ["SUCCESSFUL"] * 30
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("tgext.asyncjob")
    ]


def uses_the_session() -> None:
    asyncjob_session().execute(text("SELECT 1"))


@pytest.mark.slow
def test_behind_pgbouncer_by_session_nothing_is_different(pgbouncer, caplog):
    url = pgbouncer("session")

    warned = run_behind(url, lambda engine, session: session.configure(bind=engine), caplog)

    assert warned == []


@pytest.mark.slow
def test_behind_pgbouncer_by_transaction_jobs_run_and_a_warning_says_what_is_different(
    pgbouncer, caplog
):
    url = pgbouncer("transaction")

    def init_model(engine: Engine, session: Any) -> None:
        run(SHOWN["pgbouncer"], "model", DBSession=session).init_model(engine)

    warned = run_behind(url, init_model, caplog)

    assert len(warned) == 1
    assert "new jobs are polled for" in warned[0]
