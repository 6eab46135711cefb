"""The tables of one prefix, and the conditions that use their indexes.

The row of a job is written when the job is enqueued, claimed and ended, and not in between.
Progress and heartbeats, which change meanwhile, are in other tables, so that their readers and
writers never wait for the job's own transaction.

Instants are seconds since the epoch by the clock of the database, as doubles: the same on all
databases, exact to the microsecond until the year 2242.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    and_,
    bindparam,
    false,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.mysql import LONGTEXT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ...job import storable
from . import states
from .plans import is_just

#: The default of ``asyncjob.table_prefix``, which begins the names of the tables.
PREFIX = "asyncjob_"

#: The version of the tables below. A database with a newer version is refused.
SCHEMA_VERSION = 2

#: What version 1 called an index that has another condition now; it is dropped.
OBSOLETE_INDEX = "jobs_by_finished_at"

#: The most characters of a task's name and of a user's that jobs are listed by.
LISTED_LENGTH = 255

# SQLite generates numbers only in an INTEGER column; MariaDB's TEXT is limited to 64 KiB.
_Number = BigInteger().with_variant(Integer(), "sqlite")
_Long = Text().with_variant(LONGTEXT(), "mysql", "mariadb")

# The text columns of MariaDB, whatever the default of the database: all of Unicode, and case
# sensitive.
_TEXT: dict[str, Any] = {
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


class epoch(FunctionElement[float]):
    """The clock of the database: seconds since the epoch at the begin of the statement. Constant
    within a statement, so that a condition with it can use an index."""

    type = Double()
    inherit_cache = True


@compiles(epoch, "sqlite")
def _epoch_of_sqlite(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch, "postgresql")
def _epoch_of_postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:
    # now() is the begin of the transaction, which may be a job's and hours ago.
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


@compiles(epoch, "mysql")
@compiles(epoch, "mariadb")
def _epoch_of_mariadb(_element: Any, _compiler: Any, **_options: Any) -> str:
    # Not through local time, which repeats an hour when summer time ends.
    return "(timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1e6)"


@functools.lru_cache(maxsize=1024)
def listed(name: Any) -> str | None:
    """Return what a column by which jobs are listed holds of the name of a task or a user; None for
    None."""
    return None if name is None else storable(str(name))[:LISTED_LENGTH]


def instant(seconds: float) -> datetime:
    """Return an instant of a row as aware UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def _number(number: int) -> ColumnElement[int]:
    return literal_column(str(number), SmallInteger())


class Clock:
    """The current time as SQL: the clock of the database; in tests that let time pass, *fake*."""

    def __init__(self, fake: Callable[[], float] | None = None) -> None:
        self._fake = fake
        self.is_fake = fake is not None
        #: for a statement that is compiled once; ``moment`` returns its parameter
        self.clause: ColumnElement[float] = (
            epoch() if fake is None else bindparam("moment", type_=Double())
        )

    def moment(self) -> dict[str, float]:
        """Return the parameter of ``clause``."""
        return {} if self._fake is None else {"moment": self._fake()}

    def now(self) -> ColumnElement[float]:
        """Return the expression for a statement that is built for each execution."""
        return epoch() if self._fake is None else literal(self._fake(), Double())


@dataclass(frozen=True)
class Tables:
    """The tables of one prefix."""

    prefix: str
    metadata: MetaData
    jobs: Table
    errors: Table  #: one row for each failed attempt
    progress: Table  #: one row for each job that has reported
    workers: Table  #: one row for each worker that is not known to have ended
    queues: Table  #: one row for each queue that was ever paused
    schema: Table  #: one row: the version, and the identity of these tables

    def locate(self, schema: str | None) -> None:
        """Qualify the names of the tables by a schema, so that the search path of a session does
        not matter; None: no schema."""
        for table in self.metadata.tables.values():
            table.schema = schema
            table.fullname = f"{schema}.{table.name}" if schema else table.name

    def job(self, uid: str) -> Any:
        """Select the row of a job."""
        return select(self.jobs).where(self.is_job(uid))

    def is_job(self, uid: str) -> ColumnElement[bool]:
        """The condition that a row is of this job; false for a uid that a database refuses."""
        return self.jobs.c.uid == uid if storable(uid) == uid else false()

    @property
    def running(self) -> ColumnElement[bool]:
        """The condition that a job, found by its uid, is claimed."""
        return self.still(states.RUNNING)

    def still(self, *states: int) -> ColumnElement[bool]:
        """The condition that a job, found by its uid or number, is in one of *states*. Written
        so that no database uses the index of a state, which keeps dead entries until a cleanup."""
        return (self.jobs.c.state + 0).in_([_number(state) for state in states])

    @property
    def side_tables(self) -> list[Table]:
        """The tables that change while a job runs; on SQLite they are in the side database."""
        return [self.progress, self.workers]

    def stands(self, state: int) -> ColumnElement[bool]:
        """The condition that a job is in *state*, as the index of that state needs it: with the
        number in the text of the statement. With a parameter no database would use the index."""
        is_one: ColumnElement[bool] = is_just(self.jobs.c.state, _number(state))
        return and_(self.ended, is_one) if state in states.ENDED else is_one

    @property
    def ended(self) -> ColumnElement[bool]:
        """The condition that a job has ended, as the indexes of the ended jobs need it. (With the
        states as a list SQLite would search them all, although one is asked for.)"""
        return self.jobs.c.finished_at.is_not(None)

    @property
    def main_tables(self) -> list[Table]:
        """The tables in the application's database itself."""
        return [self.jobs, self.errors, self.queues, self.schema]


def make_tables(prefix: str = PREFIX, metadata: MetaData | None = None) -> Tables:
    """Describe the tables.

    metadata: None: one of their own. An application that manages them with Alembic passes its own.
    """
    metadata = MetaData() if metadata is None else metadata
    return Tables(
        prefix=prefix,
        metadata=metadata,
        jobs=_jobs(prefix, metadata),
        errors=Table(
            f"{prefix}errors",
            metadata,
            Column("number", _Number, primary_key=True, autoincrement=True),
            Column("uid", String(64), nullable=False, index=True),
            Column("exception_class_path", String(255), nullable=False),
            Column("message", _Long, nullable=False),
            Column("traceback", _Long, nullable=False),
            #: when, of which attempt, by which worker; NULL: written by version 1
            Column("at", Double),
            Column("attempt", Integer),
            Column("worker_id", String(64)),
            **_TEXT,
        ),
        progress=Table(
            f"{prefix}progress",
            metadata,
            Column("uid", String(64), primary_key=True),
            Column("value", BigInteger, nullable=False),
            Column("data", _Long),
            Column("total", BigInteger),
            **_TEXT,
        ),
        workers=Table(
            f"{prefix}workers",
            metadata,
            Column("worker_id", String(64), primary_key=True),
            Column("host", String(255), nullable=False),
            Column("pid", Integer, nullable=False),
            Column("threads", Integer, nullable=False),
            #: names of the queues that it serves, separated by commas; NULL: all
            Column("queues", _Long),
            Column("started_at", Double, nullable=False),
            Column("seen_at", Double, nullable=False),
            #: whether other processes on its machine can prove its death; for information only
            Column("provable", Boolean, nullable=False),
            #: its death is not a crash of its jobs: it is stopping, or a reloader runs it
            Column("expendable", Boolean, nullable=False),
            **_TEXT,
        ),
        queues=Table(
            f"{prefix}queues",
            metadata,
            Column("name", String(64), primary_key=True),
            Column("paused_at", Double),
            Column("paused_by", String(LISTED_LENGTH)),
            **_TEXT,
        ),
        schema=Table(
            f"{prefix}schema",
            metadata,
            Column("version", Integer, primary_key=True),
            #: random, so that signed rows of other tables are not taken for rows of these
            Column("identity", String(32)),
            **_TEXT,
        ),
    )


def _jobs(prefix: str, metadata: MetaData) -> Table:
    jobs = Table(
        f"{prefix}jobs",
        metadata,
        Column("number", _Number, primary_key=True, autoincrement=True),
        Column("uid", String(64), nullable=False, unique=True),
        Column("state", SmallInteger, nullable=False),
        #: the negative priority, so that every index is read in one direction
        Column("rank", SmallInteger, nullable=False),
        Column("queue_name", String(64), nullable=False),
        Column("due_at", Double),
        Column("lease", Integer, nullable=False, server_default=text("0")),
        Column("worker_id", String(64)),
        Column("attempts", Integer, nullable=False, server_default=text("0")),
        Column("budget", Integer, nullable=False),
        Column("crashes", Integer, nullable=False, server_default=text("0")),
        Column("cancelled", Boolean, nullable=False, server_default=false()),
        #: its attempt is committing, in another database
        Column("fenced", Boolean, nullable=False, server_default=false()),
        #: its attempt is known to have begun: the job was claimed alone
        Column("begun", Boolean, nullable=False, server_default=false()),
        #: its worker died while it held several jobs, and this one may have killed it
        Column("suspect", Boolean, nullable=False, server_default=false()),
        Column("enqueued_at", Double, nullable=False, server_default=epoch()),
        Column("started_at", Double),
        Column("last_attempted_at", Double),
        Column("finished_at", Double),
        Column("name", _Long, nullable=False),
        Column("payload", _Long, nullable=False),
        Column("signature", String(255)),
        Column("options", _Long),
        Column("context", _Long),
        Column("result", _Long),
        Column("log", _Long),
        #: the beginning of its name, and the user whose request enqueued it: listed by these
        Column("task_name", String(LISTED_LENGTH)),
        Column("enqueued_by", String(LISTED_LENGTH)),
        **_TEXT,
    )
    state, has_ended = jobs.c.state, jobs.c.finished_at.is_not(None)
    for name, columns, where in (
        ("rank_number", ("state", "rank", "number"), state == states.AVAILABLE),
        (
            "queue_name_rank_number",
            ("state", "queue_name", "rank", "number"),
            state == states.AVAILABLE,
        ),
        ("due_at", ("state", "due_at"), state == states.SCHEDULED),
        ("worker_id", ("state", "worker_id"), state == states.RUNNING),
        ("end", ("state", "finished_at"), has_ended),
        ("task_end", ("task_name", "finished_at"), has_ended),
        ("user_end", ("enqueued_by", "finished_at"), jobs.c.enqueued_by.is_not(None)),
    ):
        # Partial if the database can: then a row is only in the indexes of its state.
        indexed = [jobs.c[column] for column in columns]
        Index(f"{prefix}jobs_by_{name}", *indexed, postgresql_where=where, sqlite_where=where)
    return jobs
