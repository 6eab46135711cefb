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
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    and_,
    bindparam,
    false,
    literal,
    literal_column,
    select,
)

from ...job import storable
from . import states
from .columns import LISTED_LENGTH, LONG, NUMBER, TEXT
from .epoch import epoch
from .jobs_table import jobs_table
from .plans import is_in_partial, is_just
from .policy_tables import groups_table, limits_table, slots_table, turns_table
from .schedule_tables import schedules_table, ticks_table
from .statistics_tables import counted_table, minutes_table
from .unique_tables import duplicates_table, unique_keys_table

#: The default of ``asyncjob.table_prefix``, which begins the names of the tables.
PREFIX = "asyncjob_"

#: The version of the tables below. A database with a newer version is refused.
SCHEMA_VERSION = 3

#: What version 1 called an index that has another condition now; it is dropped.
OBSOLETE_INDEX = "jobs_by_finished_at"


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
    queues: Table  #: one row for each queue that was ever paused or limited
    audit: Table  #: one row for each action of people
    wakeups: Table  #: one row for each queue whose wake-up was published again, see ``relay``
    schedules: Table  #: one row for each schedule
    ticks: Table  #: one row for each tick of a schedule that was enqueued or skipped
    minutes: Table  #: one row for each minute, or half hour, and task and queue of what has ended
    counted: Table  #: one row: up to which minute these are counted
    limits: Table  #: one row for each key by which jobs are admitted
    groups: Table  #: one row for each key of jobs that wait for several
    slots: Table  #: one row for each key of each admitted job
    turns: Table  #: one row for each owner of jobs that take turns
    unique_keys: Table  #: one row for each unique key, with the job that took it last
    duplicates: Table  #: one row for each job that gave way to another one of its unique key
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
        return [self.progress, self.workers, self.wakeups]

    def stands(self, state: int) -> ColumnElement[bool]:
        """The condition that a job is in *state*, as the index of that state needs it: with the
        number in the text of the statement. With a parameter no database would use the index."""
        is_one: ColumnElement[bool] = is_just(self.jobs.c.state, _number(state))
        if state == states.BLOCKED:
            return and_(is_in_partial(self.jobs.c.blocked_by), is_one)
        return and_(self.ended, is_one) if state in states.ENDED else is_one

    @property
    def ended(self) -> ColumnElement[bool]:
        """The condition that a job has ended, as the indexes of the ended jobs need it. (With the
        states as a list SQLite would search them all, although one is asked for.)"""
        return self.jobs.c.finished_at.is_not(None)

    @property
    def main_tables(self) -> list[Table]:
        """The tables in the application's database itself."""
        main = [self.jobs, self.errors, self.queues, self.audit, self.schedules, self.ticks]
        policies = [self.limits, self.groups, self.slots, self.turns]
        unique = [self.unique_keys, self.duplicates]
        return [*main, self.minutes, self.counted, *policies, *unique, self.schema]


def make_tables(
    prefix: str = PREFIX, metadata: MetaData | None = None, *, has_one_writer: bool = False
) -> Tables:
    """Describe the tables.

    metadata: None: one of their own. An application that manages them with Alembic passes its own.
    has_one_writer: whether it is the database that has, SQLite.
    """
    metadata = MetaData() if metadata is None else metadata
    return Tables(
        prefix=prefix,
        metadata=metadata,
        jobs=jobs_table(prefix, metadata),
        errors=Table(
            f"{prefix}errors",
            metadata,
            Column("number", NUMBER, primary_key=True, autoincrement=True),
            Column("uid", String(64), nullable=False, index=True),
            Column("exception_class_path", String(255), nullable=False),
            Column("message", LONG, nullable=False),
            Column("traceback", LONG, nullable=False),
            #: when, of which attempt, by which worker; NULL: written by version 1
            Column("at", Double),
            Column("attempt", Integer),
            Column("worker_id", String(64)),
            **TEXT,
        ),
        progress=Table(
            f"{prefix}progress",
            metadata,
            Column("uid", String(64), primary_key=True),
            Column("value", BigInteger, nullable=False),
            Column("data", LONG),
            Column("total", BigInteger),
            #: of which attempt and from when the report is; NULL: of version 2
            Column("attempt", Integer),
            Column("reported_at", Double),
            #: how fast the reports of the attempt came; NULL: not known
            Column("rate", Double),
            Column("gap", Double),
            **TEXT,
        ),
        workers=Table(
            f"{prefix}workers",
            metadata,
            Column("worker_id", String(64), primary_key=True),
            Column("host", String(255), nullable=False),
            Column("pid", Integer, nullable=False),
            Column("threads", Integer, nullable=False),
            #: names of the queues that it serves, separated by commas; NULL: all
            Column("queues", LONG),
            Column("started_at", Double, nullable=False),
            Column("seen_at", Double, nullable=False),
            #: whether other processes on its machine can prove its death; for information only
            Column("provable", Boolean, nullable=False),
            #: its death is not a crash of its jobs: it is stopping, or a reloader runs it
            Column("expendable", Boolean, nullable=False),
            #: its jobs that hold the write lock, and since when, in JSON; NULL: none does
            *([Column("locks", LONG)] if has_one_writer else []),
            **TEXT,
        ),
        queues=Table(
            f"{prefix}queues",
            metadata,
            Column("name", String(64), primary_key=True),
            Column("paused_at", Double),
            Column("paused_by", String(LISTED_LENGTH)),
            #: how many of its jobs may run at once; NULL: any number
            Column("most", Integer),
            **TEXT,
        ),
        audit=Table(
            f"{prefix}audit",
            metadata,
            Column("number", NUMBER, primary_key=True, autoincrement=True),
            Column("at", Double, nullable=False, index=True),
            Column("user_name", String(LISTED_LENGTH)),
            Column("via", String(20), nullable=False),
            Column("action", String(20), nullable=False),
            Column("subject", LONG, nullable=False),
            Column("changed", Integer, nullable=False),
            Column("result", String(LISTED_LENGTH), nullable=False),
            **TEXT,
        ),
        wakeups=Table(
            f"{prefix}wakeups",
            metadata,
            Column("queue_name", String(64), primary_key=True),
            #: changed by each publication, so that one relay of all publishes
            Column("version", Integer, nullable=False),
            Column("published_at", Double, nullable=False),
            #: publications since the first job of the queue was another one
            Column("times", Integer, nullable=False),
            #: the number of the first job of the queue at that time
            Column("head", BigInteger, nullable=False),
            **TEXT,
        ),
        schedules=schedules_table(prefix, metadata),
        ticks=ticks_table(prefix, metadata),
        minutes=minutes_table(prefix, metadata),
        counted=counted_table(prefix, metadata),
        limits=limits_table(prefix, metadata),
        groups=groups_table(prefix, metadata),
        slots=slots_table(prefix, metadata),
        turns=turns_table(prefix, metadata),
        unique_keys=unique_keys_table(prefix, metadata),
        duplicates=duplicates_table(prefix, metadata),
        schema=Table(
            f"{prefix}schema",
            metadata,
            Column("version", Integer, primary_key=True),
            #: random, so that signed rows of other tables are not taken for rows of these
            Column("identity", String(32)),
            **TEXT,
        ),
    )
