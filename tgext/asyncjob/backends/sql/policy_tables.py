"""The tables by which jobs with a key are admitted; see ``admission``."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table

from ...keys import KEY_LENGTH
from ...policies import Keys
from . import states
from .columns import TEXT


def limits_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of the keys. Who admits jobs of a key has locked its row."""
    return Table(
        f"{prefix}limits", metadata, Column("name", String(KEY_LENGTH), primary_key=True), **TEXT
    )


def slots_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of the admissions. A job holds the slot of a limit while it is AVAILABLE
    or RUNNING: its row says so, whatever becomes of it, and a row here without such a job counts
    for nothing. The row of a rate counts until the job has started, and for a window after that.
    """
    slots = Table(
        f"{prefix}slots",
        metadata,
        Column("name", String(KEY_LENGTH), primary_key=True),  #: of the key
        Column("uid", String(64), primary_key=True),  #: of the job
        #: of the job at its admission, whose next lease is the start
        Column("lease", Integer, primary_key=True, autoincrement=False),
        Column("admitted_at", Double, nullable=False),
        #: when the job has started, once it has been blocked again or has ended
        Column("started_at", Double),
        #: how long that counts, in seconds; NULL: it is the slot of a limit
        Column("seconds", Double),
        **TEXT,
    )
    Index(f"{prefix}slots_by_start", slots.c.name, slots.c.started_at)
    return slots


def groups_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of what jobs with several keys wait for: a row for each key."""
    return Table(
        f"{prefix}groups",
        metadata,
        Column("name", String(KEY_LENGTH), primary_key=True),  #: of the key
        Column("blocked_by", String(KEY_LENGTH), primary_key=True),  #: as in the rows of the jobs
        **TEXT,
    )


def turns_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of the owners who take turns: a row for each group of their jobs. Who
    writes rows of a turn has locked its row of ``limits``."""
    turns = Table(
        f"{prefix}turns",
        metadata,
        Column("name", String(KEY_LENGTH), primary_key=True),  #: of the turn
        Column("owner", String(KEY_LENGTH), primary_key=True),
        Column("blocked_by", String(KEY_LENGTH), primary_key=True),  #: as in the rows of the jobs
        #: the number of the last turn of the owner; below 0: none yet
        Column("served", BigInteger, nullable=False),
        **TEXT,
    )
    Index(f"{prefix}turns_by_served", turns.c.name, turns.c.served)
    return turns


def policy_columns(state: int, keys: Keys) -> dict[str, Any]:
    """Return the columns of a new job with keys. state: what it would have without."""
    blocked_by = keys.group if state == states.AVAILABLE else None
    if keys.unique is not None:
        blocked_by = keys.unique.key  # first, also of a delayed job
    return {
        "state": state if blocked_by is None else states.BLOCKED,
        "blocked_by": blocked_by,
        "limit_key": keys.group,
        "policy": keys.text,
    }
