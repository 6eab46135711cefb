"""The tables of schedules and of their ticks."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, MetaData, String, Table, text

from .columns import LISTED_LENGTH, LONG, TEXT


def schedules_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of schedules."""
    return Table(
        f"{prefix}schedules",
        metadata,
        Column("name", String(LISTED_LENGTH), primary_key=True),
        #: the call of its jobs, as in the row of a job
        Column("call_name", LONG, nullable=False),
        Column("payload", LONG, nullable=False),
        Column("signature", String(255)),
        #: options that differ from those of the task, as JSON
        Column("options", LONG),
        #: seconds between its ticks, or an expression and its time zone
        Column("every", BigInteger),
        Column("cron", String(100)),
        Column("timezone", String(64)),
        Column("catch_up", String(16), nullable=False),
        #: the next tick to decide on; NULL: it is stale
        Column("next_at", Double, index=True),
        Column("paused_at", Double),
        Column("paused_by", String(LISTED_LENGTH)),
        #: when a process last declared it; NULL: no task declares it
        Column("declared_at", Double),
        Column("version", Integer, nullable=False, server_default=text("1")),
        **TEXT,
    )


def ticks_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of ticks. Its key is the identity of a tick."""
    return Table(
        f"{prefix}ticks",
        metadata,
        Column("schedule", String(LISTED_LENGTH), primary_key=True),
        Column("instant", Double, primary_key=True, index=True),
        #: of the job; NULL: skipped
        Column("uid", String(64)),
        Column("reason", LONG),
        **TEXT,
    )
