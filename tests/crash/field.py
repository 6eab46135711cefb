"""The tables of a run beside the library's own: what was ordered, and what came of it.

An order is written in the transaction that enqueues its job, by the enqueuer or by the job that
follows up: both are there, or neither. The ledger has no unique column on purpose: what is done
twice must show.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, insert

from tgext.asyncjob.backends.sql.tables import Tables, make_tables

#: Few, so that jobs wait for one another's locks and deadlock; not so few that one process which
#: is stopped with such a lock brings all others to a halt.
COUNTERS = 12


@dataclass(frozen=True)
class Field:
    """Tables of one prefix."""

    metadata: MetaData
    orders: Table
    ledger: Table
    counters: Table
    jobs: Tables  #: the library's

    def make(self, engine: Engine) -> None:
        """Create the tables of the run, with counters at zero."""
        self.metadata.create_all(engine)
        with engine.begin() as connection:
            zeros = [{"number": number, "value": 0} for number in range(COUNTERS)]
            connection.execute(insert(self.counters), zeros)

    def drop(self, engine: Engine) -> None:
        """Drop them, and the library's."""
        self.metadata.drop_all(engine)
        self.jobs.metadata.drop_all(engine)


@cache
def field_of(prefix: str) -> Field:
    """Describe the tables of a run."""
    metadata = MetaData()
    return Field(
        metadata,
        orders=Table(
            f"{prefix}orders",
            metadata,
            Column("uid", String(64), primary_key=True),
            Column("number", Integer, nullable=False, index=True),
            Column("kind", String(20), nullable=False),
        ),
        ledger=Table(
            f"{prefix}ledger",
            metadata,
            Column("id", Integer, primary_key=True, autoincrement=True),
            Column("number", Integer, nullable=False, index=True),
            Column("what", String(20), nullable=False),
            Column("child", String(40), nullable=False),
        ),
        counters=Table(
            f"{prefix}counters",
            metadata,
            Column("number", Integer, primary_key=True, autoincrement=False),
            Column("value", Integer, nullable=False),
        ),
        jobs=make_tables(prefix),
    )


def counter_of(number: int, what: str) -> int:
    """Return which counter an effect adds one to."""
    return (number * 7 + sum(what.encode())) % COUNTERS
