"""Fixtures of all tests, and the rule that a test leaves nothing behind.

A queue that stays open makes "the only open one of the process" wrong for every later test, a
thread that lives on runs jobs of a test that is over, and an open transaction swallows them.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import re
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction

import own_servers
from clocks import PATIENCE_SECONDS, FakeClock, Gate
from compiled_statements import share_statements
from databases import put_tables
from kept_connections import close_kept, keep_connections
from otherprocess import OtherProcess
from tgext.asyncjob import JobQueue
from tgext.asyncjob.current import open_queues


class Database:
    """A SQLite file of notes, and the application's session on it, as zope.sqlalchemy wants it.

    Note: the mapped class, with ``id`` and a unique ``text``.
    """

    def __init__(self, path: Path) -> None:
        import sqlalchemy
        import zope.sqlalchemy
        from sqlalchemy import orm

        put_tables(path)
        self.url = f"sqlite:///{path}"
        self.engine = sqlalchemy.create_engine(self.url)
        base = orm.declarative_base()
        columns = {
            "__tablename__": "note",
            "id": sqlalchemy.Column(sqlalchemy.Integer, primary_key=True),
            "text": sqlalchemy.Column(sqlalchemy.String, unique=True),
        }
        self.Note: Any = type("Note", (base,), columns)
        base.metadata.create_all(self.engine)
        self.Session = orm.scoped_session(orm.sessionmaker(bind=self.engine))
        zope.sqlalchemy.register(self.Session)

    def add(self, text: str) -> None:
        """Add a note in this thread's session; nobody commits it here."""
        self.Session.add(self.Note(text=text))

    def add_committed(self, text: str) -> None:
        """Add a note as another process would: on a connection of its own."""
        with self.engine.begin() as connection:
            connection.execute(self.Note.__table__.insert().values(text=text))

    def texts(self) -> list[str]:
        """What is committed, sorted, read on a connection of its own."""
        with self.engine.connect() as connection:
            return sorted(connection.execute(self.Note.__table__.select()).scalars(1))


#: Modules whose tests share nothing: each goes to whichever process is free.
APART = ("project_checks.py", "test_crash.py", "test_commands.py", "test_sql_race.py")

#: Modules whose fixtures are made anew for each kind of database, as a parameter of a test's says:
#: the tests of one kind go together.
BY_DATABASE = ("test_sql_backend.py", "test_sql_promises.py", "test_sql_explain.py",
               "test_task_executors.py")  # fmt: skip

#: Modules that take longest: they are begun first, so that none is left for the end.
LONGEST = ("project_checks.py", "test_sql_survival.py", "test_dashboard_in_browser.py",
           "test_sql_session_kinds.py", "test_sql_backend.py", "test_sql_statements.py",
           "test_servers.py", "test_photoalbum_in_browser.py", "test_web_in_browser.py",
           "test_runs.py", "test_commits.py", "test_sql_elsewhere.py", "test_packaging.py",
           "test_timeouts.py", "test_docs_durable.py", "test_states.py", "test_sql_liveness.py",
           "test_task_executors.py", "test_quickstart.py", "test_reentry.py",
           "test_forked.py", "test_sql_explain.py", "test_photoalbum_durable.py",
           "test_screenshots.py", "test_sql_promises.py", "test_sql_memory.py",
           "test_celery_fleet.py", "test_celery_ends.py", "test_celery_faults.py")  # fmt: skip

#: A module whose tests wait most of the time: one at a time is begun between others.
WAITING = "test_crash.py"

#: A module of small tests, which fill what is left at the end.
LAST = "test_commands.py"


#: A commit on PostgreSQL does not wait for the disk: that costs most of what it costs, and only
#: servers of a test's own die. Read by libpq, here and in each process that a test starts.
os.environ.setdefault(own_servers.CLIENT_OPTIONS, "-c synchronous_commit=off")

#: Where Linux has files in memory, and how much of it must be free: several times what tests need.
IN_MEMORY, MOST_BYTES = "/dev/shm", 4_000_000_000


def _in_memory() -> str | None:
    """Where files of tests cost neither disk nor waiting, as a commit of SQLite does; None: on this
    machine nowhere."""
    try:
        found = os.statvfs(IN_MEMORY)
        [available] = re.findall(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    except (OSError, ValueError):
        return None
    has_place = min(found.f_bavail * found.f_frsize, int(available) * 1024) > MOST_BYTES
    runs_programs = not found.f_flag & os.ST_NOEXEC
    return IN_MEMORY if has_place and runs_programs and os.access(IN_MEMORY, os.W_OK) else None


def pytest_configure(config: Any) -> None:
    if own_servers.FOLDER not in os.environ:
        made = tempfile.mkdtemp(prefix="asyncjob-tests-", dir=_in_memory())
        os.chmod(made, 0o755)  # servers run as users of their own
        os.environ[own_servers.FOLDER] = made
        config.add_cleanup(functools.partial(shutil.rmtree, made, ignore_errors=True))
        config.option.basetemp = config.option.basetemp or f"{made}/tests"


# What registers itself with Hypothesis is trio, which Selenium imports and no test uses; to see who
# holds its dice takes longer than to import Hypothesis.
os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")


def pytest_ignore_collect(collection_path: Path, config: Any) -> bool | None:
    """Do not import a module of slow tests that would all be left out, browsers and all."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    all_are_slow = re.search(
        r"^pytestmark = \[?\s*pytest\.mark\.slow\b", collection_path.read_text(), re.M
    )
    return True if all_are_slow else None


# Of the imports of all tests most stays, so that the garbage collector would look at it in vain:
# while they are imported, and, in the objects that are there then, at each of its runs thereafter.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: Any, nextitem: Any) -> Iterator[None]:
    """Let the garbage collector forget, at the end of a module, what will stay: a full run of it
    takes half a second in the end, and tests ask for some."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def _scope_of(nodeid: str) -> str:
    """What runs in one process: a module, as its fixtures are made once, but for those above."""
    module = nodeid.partition("::")[0]
    if module.endswith(BY_DATABASE):
        kind = re.search(r"[\[-](sqlite|postgresql|mariadb)[-\]]", nodeid)
        return f"{module}[{kind and kind[1]}]"
    return nodeid if module.endswith(APART) else module


def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope_of(nodeid)

    config.option.loadscopereorder = False
    return ByModule(config, log)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)} | {LAST: len(LONGEST) + 1}
    scopes: dict[str, list[Any]] = {}
    for item in sorted(items, key=lambda item: ranks.get(item.path.name, len(LONGEST))):
        scopes.setdefault(_scope_of(item.nodeid), []).append(item)
    waiting = [scopes.pop(scope) for scope in list(scopes) if WAITING in scope]
    woven = itertools.zip_longest(scopes.values(), waiting, fillvalue=())
    items[:] = [item for pair in woven for scope in pair for item in scope]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[Any]:
    """Escape what UTF-8 does not hold, as some tests log it: reports go from process to process.

    Report as plain text what was raised at an instruction without a line, as an interruption can
    be: pytest cannot format that, and would end the whole run.
    """
    try:
        report = yield
    except TypeError:
        text = "".join(traceback.format_exception(call.excinfo.value))
        keywords = dict.fromkeys(item.keywords, 1)
        report = pytest.TestReport(
            item.nodeid, item.location, keywords, "failed", text, call.when,
            duration=call.duration, start=call.start, stop=call.stop,
        )  # fmt: skip
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def other_process() -> Iterator[Callable[[], OtherProcess]]:
    """Starts processes that do nothing, and live until the test ends or lets them die."""
    started: list[OtherProcess] = []

    def start() -> OtherProcess:
        started.append(OtherProcess())
        return started[-1]

    yield start
    for each in started:
        each.die()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database of its own for one test; ask for it before the queue that works on it."""
    made = Database(tmp_path / "notes.db")
    yield made
    made.Session.remove()
    made.engine.dispose()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is opened when the test ends; ask for it after the queue."""
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    """A queue without a database whose worker runs on two threads."""
    with JobQueue(threads=2) as made:
        made.start_worker()
        yield made


@pytest.fixture(scope="session", autouse=True)
def _statements_compiled_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        share_statements(patch)
        keep_connections(patch)
        yield
    close_kept()


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a transaction, a queue or a thread of ours behind.

    Fixtures of a wider scope are set up before and torn down after this one: their queues are
    left alone, and while one of them is open so are all threads, which may be its.
    """
    queues_before, threads_before = set(open_queues), set(_threads())
    yield
    left = [*_close_transaction(), *_close_queues(set(open_queues) - queues_before)]
    if not queues_before:
        left += _join_threads(set(_threads()) - threads_before)
    if left:
        pytest.fail(f"the test leaves behind {', '.join(left)}", pytrace=False)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("asyncjob")]


def _close_transaction() -> list[str]:
    left = transaction.manager.manager._txn
    if left is None:
        return []
    transaction.abort()
    return [f"an open transaction with {len(left._resources)} participants"]


def _close_queues(queues: set[JobQueue]) -> list[str]:
    for queue in queues:
        queue.close()
    return [f"an open queue, {queue!r}" for queue in queues]


def _join_threads(threads: set[threading.Thread]) -> list[str]:
    until = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        # Another thread may be about to start it: it is listed by then, and cannot be joined yet.
        thread._started.wait(PATIENCE_SECONDS)  # type: ignore[attr-defined]
        thread.join(max(0.0, until - time.monotonic()))
    return [f"the thread {thread.name!r}" for thread in threads if thread.is_alive()]
