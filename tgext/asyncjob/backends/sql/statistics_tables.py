"""The tables of statistics: what has ended in each minute, and up to where that is counted."""

from __future__ import annotations

from sqlalchemy import Column, Double, Integer, MetaData, SmallInteger, String, Table

from ..statistics import BOUNDS
from .columns import LISTED_LENGTH, TEXT


def minutes_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of minutes. Its key lets no minute be counted twice."""
    return Table(
        f"{prefix}minutes",
        metadata,
        #: 1; or more: the sum of so many minutes from this one on
        Column("span", SmallInteger, primary_key=True, autoincrement=False),
        #: since the epoch
        Column("minute", Integer, primary_key=True, autoincrement=False),
        #: of a task and its queue; both empty: of all that have no row of their own
        Column("task_name", String(LISTED_LENGTH), primary_key=True),
        Column("queue_name", String(64), primary_key=True),
        Column("done", Integer, nullable=False),
        Column("failed", Integer, nullable=False),
        Column("cancelled", Integer, nullable=False),
        Column("retried", Integer, nullable=False),
        Column("started", Integer, nullable=False),
        Column("waited_seconds", Double, nullable=False),
        Column("ran_seconds", Double, nullable=False),
        #: attempts by their durations: see ``statistics.BOUNDS``
        *(Column(f"took_{number}", Integer, nullable=False) for number in range(len(BOUNDS) + 1)),
        **TEXT,
    )


def counted_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table that says how far minutes are counted; it has one row."""
    return Table(
        f"{prefix}counted",
        metadata,
        Column("number", SmallInteger, primary_key=True, autoincrement=False),
        #: minutes before these are counted; and are counted for good
        Column("counted_until", Integer, nullable=False),
        Column("settled_until", Integer, nullable=False),
        #: when a process has begun to count, and which of all beginnings that was
        Column("taken_at", Double),
        Column("version", Integer, nullable=False),
        **TEXT,
    )
