"""The tables of unique keys; see ``uniqueness``."""

from __future__ import annotations

from sqlalchemy import Column, MetaData, String, Table

from ...keys import KEY_LENGTH
from .columns import TEXT


def unique_keys_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of the keys. Its primary key is the constraint: of each key one job."""
    return Table(
        f"{prefix}unique_keys",
        metadata,
        Column("name", String(KEY_LENGTH), primary_key=True),  #: the key
        #: the job that has taken it last; whether it still holds it is seen from the job
        Column("uid", String(64), nullable=False, index=True),
        **TEXT,
    )


def duplicates_table(prefix: str, metadata: MetaData) -> Table:
    """Describe the table of the jobs that gave way to another one of their key."""
    return Table(
        f"{prefix}duplicates",
        metadata,
        Column("uid", String(64), primary_key=True),
        Column("leads_to", String(64), nullable=False, index=True),  #: the uid of that job
        **TEXT,
    )
