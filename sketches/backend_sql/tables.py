"""The tables, and the one place that knows what a status is called in them.

A job's row is written when it is enqueued, claimed and ended, never in between: what changes
while it runs (progress, whether its worker lives) stands elsewhere, so that a reader of it never
waits for the job's own transaction.

Instants are seconds since the epoch by the database's own clock, as doubles: equal on all
databases, microseconds exact until the year 2242.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.mysql import LONGTEXT

from ...job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL, TaskResultStatus

#: What begins the tables' names where ``asyncjob.table_prefix`` says nothing else.
PREFIX = "asyncjob_"

#: The version of what is below. A database with a newer one is refused.
SCHEMA_VERSION = 1

#: ``jobs.state``. A delayed job is READY to the world, and here a state of its own, so that a
#: million of them cost a claim nothing.
WAITS, DELAYED, RUNS, SUCCEEDED, BROKE, TAKEN_BACK = range(6)
ENDED = (SUCCEEDED, BROKE, TAKEN_BACK)

STATUS_OF = {
    WAITS: READY,
    DELAYED: READY,
    RUNS: RUNNING,
    SUCCEEDED: SUCCESSFUL,
    BROKE: FAILED,
    TAKEN_BACK: CANCELLED,
}
STATE_OF: dict[TaskResultStatus, int] = {
    SUCCESSFUL: SUCCEEDED,
    FAILED: BROKE,
    CANCELLED: TAKEN_BACK,
}

# SQLite numbers rows by itself in a column of just this type; MariaDB's TEXT ends at 64 KiB.
_Number = BigInteger().with_variant(Integer(), "sqlite")
_Long = Text().with_variant(LONGTEXT(), "mysql", "mariadb")


@dataclass(frozen=True)
class Tables:
    """The tables of one prefix."""

    metadata: MetaData
    jobs: Table
    errors: Table  #: one row for each attempt that failed
    progress: Table  #: one row for each job that has reported
    workers: Table  #: one row for each worker that has not said goodbye
    schema: Table  #: one row: the version


def make_tables(prefix: str = PREFIX) -> Tables:
    """Describe the tables, in a MetaData of their own."""
    metadata = MetaData()
    jobs = Table(
        f"{prefix}jobs",
        metadata,
        Column("number", _Number, primary_key=True, autoincrement=True),
        Column("uid", String(64), nullable=False, unique=True),
        Column("state", SmallInteger, nullable=False),
        #: the priority turned round, so that every index is read in one direction
        Column("rank", SmallInteger, nullable=False),
        Column("queue_name", String(64), nullable=False),
        Column("due_at", Double),
        Column("lease", Integer, nullable=False, default=0),
        Column("worker_id", String(64)),
        Column("attempts", Integer, nullable=False, default=0),
        Column("budget", Integer, nullable=False),
        Column("crashes", Integer, nullable=False, default=0),
        Column("cancelled", Boolean, nullable=False, default=False),
        #: the attempt that holds it is committing, in another database
        Column("fenced", Boolean, nullable=False, default=False),
        Column("enqueued_at", Double, nullable=False),
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
    )
    for columns, states in (
        (("state", "rank", "number"), (WAITS,)),
        (("state", "queue_name", "rank", "number"), (WAITS,)),
        (("state", "due_at"), (DELAYED,)),
        (("state", "worker_id"), (RUNS,)),
        (("state", "finished_at"), ENDED),
    ):
        # Partial where the database can: then a row costs the indexes of its state only.
        where = jobs.c.state.in_(states) if len(states) > 1 else jobs.c.state == states[0]
        name = f"{prefix}jobs_by_{'_'.join(columns[1:])}"
        indexed = [jobs.c[column] for column in columns]
        Index(name, *indexed, postgresql_where=where, sqlite_where=where)
    return Tables(
        metadata=metadata,
        jobs=jobs,
        errors=Table(
            f"{prefix}errors",
            metadata,
            Column("number", _Number, primary_key=True, autoincrement=True),
            Column("uid", String(64), nullable=False, index=True),
            Column("exception_class_path", String(255), nullable=False),
            Column("message", _Long, nullable=False),
            Column("traceback", _Long, nullable=False),
        ),
        progress=Table(
            f"{prefix}progress",
            metadata,
            Column("uid", String(64), primary_key=True),
            Column("value", BigInteger, nullable=False),
            Column("data", _Long),
            Column("total", BigInteger),
        ),
        workers=Table(
            f"{prefix}workers",
            metadata,
            Column("worker_id", String(64), primary_key=True),
            Column("host", String(255), nullable=False),
            Column("pid", Integer, nullable=False),
            Column("started_at", Double, nullable=False),
            Column("seen_at", Double, nullable=False),
            Column("stopping", Boolean, nullable=False, default=False),
        ),
        schema=Table(f"{prefix}schema", metadata, Column("version", Integer, primary_key=True)),
    )
