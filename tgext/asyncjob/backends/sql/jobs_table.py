"""The table of the jobs, and its indexes."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    false,
    text,
)

from ...keys import KEY_LENGTH
from . import states
from .columns import LISTED_LENGTH, LONG, NUMBER, TEXT
from .epoch import epoch

#: The key of the names of the databases that have an index, if not all have it.
ONLY_ON = "only on"


def jobs_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of the jobs."""
    jobs = Table(
        f"{prefix}jobs",
        metadata,
        Column("number", NUMBER, primary_key=True, autoincrement=True),
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
        Column("name", LONG, nullable=False),
        Column("payload", LONG, nullable=False),
        Column("signature", String(255)),
        Column("options", LONG),
        Column("context", LONG),
        Column("result", LONG),
        Column("log", LONG),
        #: the beginning of its name, and the user whose request enqueued it: listed by these
        Column("task_name", String(LISTED_LENGTH)),
        Column("enqueued_by", String(LISTED_LENGTH)),
        #: what it must be admitted by, as JSON, and the key of the jobs that wait for the same;
        #: NULL: nothing
        Column("policy", LONG),
        Column("limit_key", String(KEY_LENGTH)),
        #: that key while the job is BLOCKED. A column of its own, so that the index of the blocked
        #: jobs does not change with the state of the others where no index is partial.
        Column("blocked_by", String(KEY_LENGTH)),
        **TEXT,
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
        ("key", ("blocked_by", "rank", "number"), jobs.c.blocked_by.is_not(None)),
    ):
        # Partial if the database can: then a row is only in the indexes of its state.
        indexed = [jobs.c[column] for column in columns]
        Index(f"{prefix}jobs_by_{name}", *indexed, postgresql_where=where, sqlite_where=where)
    # For lists. On MariaDB, where no index is partial, those above have these rows too.
    where = jobs.c.blocked_by.is_not(None)
    listed = (jobs.c.state, jobs.c.rank, jobs.c.number)
    of_blocked = Index(
        f"{prefix}jobs_by_blocked", *listed, postgresql_where=where, sqlite_where=where
    )
    of_blocked.info[ONLY_ON] = ("postgresql", "sqlite")
    of_blocked.ddl_if(dialect=of_blocked.info[ONLY_ON])
    return jobs


def indexes_of(table: Table, dialect_name: str) -> list[Index]:
    """Return the indexes of a table on a database, in the order of their names."""
    found = [
        each for each in table.indexes if dialect_name in each.info.get(ONLY_ON, (dialect_name,))
    ]
    return sorted(found, key=lambda index: str(index.name))
