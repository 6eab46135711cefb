"""Where one run takes place: the database, the folder of its files, the options of its queues.

The coordinator gives it to the processes it starts as one environment variable.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import zope.sqlalchemy
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from databases import begin_at_the_first_statement
from tgext.asyncjob import JobQueue

_VARIABLE = "ASYNCJOB_CRASH_PLACE"

SQLITE, POSTGRESQL, MARIADB = KINDS = ("sqlite", "postgresql", "mariadb")

#: What an application may have said of its engine; the processes of a run take turns.
BEGINS = "BEGIN"  #: SQLite's, which begins a transaction at its first statement
ISOLATION = {
    SQLITE: ("", BEGINS),
    POSTGRESQL: ("", "REPEATABLE READ", "SERIALIZABLE"),
    MARIADB: ("", "READ COMMITTED", "SERIALIZABLE"),
}

#: Names of queues, and what a worker may serve of them; None: all.
DEFAULT, QUICK, SLOW = QUEUES = ("default", "quick", "slow")

#: The Celery app of a run, where workers are Celery's.
CELERY_APP = "crash.celery_app:app"

#: Deaths that a job may live through here, where it is killed again and again.
MAX_CRASHES = 10_000

#: Seconds that a worker which is told to stop lets its jobs go on.
DRAIN_SECONDS = 3.0


@dataclass(frozen=True)
class Place:
    """What the processes of one run have in common, and the name of the one that reads it."""

    database: str  #: one of KINDS
    prefix: str  #: what begins the names of the tables
    folder: str
    seed: int
    jobs: int  #: to be enqueued at least, not counting those that jobs enqueue
    seconds: float  #: over which the enqueues of so many are spread
    lease: float
    port: int = 0  #: of the server; 0: there is none
    lossy_port: int = 0  #: the same, by way of the proxy
    threads: int = 2
    mutant: str = ""
    #: a folder with an older version of the library: the first processes import that one, and those
    #: that replace them the present one; "": none
    older: str = ""
    name: str = "coordinator"  #: of this process
    isolation: str = ""  #: one of those above
    queues: tuple[str, ...] | None = None  #: those that it serves
    #: URLs of the brokers to which messages are sent, and from which they come; "": own workers
    broker_in: str = ""
    broker_out: str = ""

    def of_process(self, role: str, number: int) -> Place:
        """Return the place of the process that is started as the *number*-th."""
        levels = ISOLATION[self.database]
        return replace(
            self,
            name=f"{role}{number}",
            isolation=levels[number % len(levels)],
            queues=QUEUES if number % 2 else None,
        )

    @property
    def url(self) -> URL:
        """The SQLAlchemy URL of the database: the coordinator's does not lead over the proxy."""
        is_lossy = self.name != "coordinator"
        server = {"host": "127.0.0.1", "port": self.lossy_port if is_lossy else self.port}
        if self.database == SQLITE:
            # What the library's warning asks of applications with jobs that write.
            path = f"{self.folder}/jobs.db"
            return URL.create("sqlite", database=path, query={"timeout": "30"})
        if self.database == POSTGRESQL:
            named = {"application_name": f"{self.prefix}{self.name}"}
            return URL.create(
                "postgresql+psycopg", "postgres", database="postgres", query=named, **server
            )
        user = self.name.rstrip("0123456789") if is_lossy else "root"
        return URL.create(
            "mysql+pymysql", user, database="test", query={"ssl_disabled": "1"}, **server
        )

    def queue(self, **options: Any) -> JobQueue:
        """Make a queue of this process, on a session as an application has one."""
        begins = self.isolation == BEGINS
        level = {} if begins or not self.isolation else {"isolation_level": self.isolation}
        engine = create_engine(self.url, **level)
        if begins:
            begin_at_the_first_statement(engine)
        session = scoped_session(sessionmaker(bind=engine))
        zope.sqlalchemy.register(session)
        return JobQueue(
            "sql",
            session=session,
            table_prefix=self.prefix,
            lease=self.lease,
            max_crashes=MAX_CRASHES,
            drain_timeout=DRAIN_SECONDS,
            **(self._on_celery() if self.broker_in and self.name != "coordinator" else {}),
            **options,
        )

    def _on_celery(self) -> dict[str, str]:
        return {"engine": "celery", "celery_app": CELERY_APP}

    def path(self, suffix: str) -> Path:
        """Return a file of this process."""
        return Path(self.folder, f"{self.name}.{suffix}")

    @property
    def enough(self) -> Path:
        """The file that says that jobs need come no more, once there are ``jobs`` of them."""
        return Path(self.folder, "enough")

    def environment(self) -> Mapping[str, str]:
        """Return what a process started here is to find."""
        tests = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([self.older, tests] if self.older else [tests])
        return {**os.environ, "PYTHONPATH": path, _VARIABLE: json.dumps(asdict(self))}

    def make_tables(self) -> None:
        """Create the library's tables, by the older version if there is one."""
        if not self.older:
            with self.queue(threads=0):
                return
        made = "from crash.place import here; here().queue(threads=0).close()"
        subprocess.run([sys.executable, "-c", made], env=self.environment(), check=True)


@cache
def here() -> Place:
    """Return the place of this process, which the coordinator has started."""
    given = json.loads(os.environ[_VARIABLE])
    queues = given.pop("queues")
    return Place(**given, queues=None if queues is None else tuple(queues))
