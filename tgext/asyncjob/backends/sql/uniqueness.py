"""Reads which job holds a unique key, and lets jobs ask for one.

Who asks for a key never waits for another transaction: its row is inserted, BLOCKED; see
``unique_admission`` for what becomes of it. Whether the job in the row of a key still holds it is
read from the job: no completion, failure, cancellation or claim has to free it, and none of them
changes a row that is written there, or waits for one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, literal_column, select, union_all, update

from ...job import JobId, storable
from ...policies import Keys
from ...uniqueness import WAITING, UniqueKey
from . import states
from .dialect import Dialect
from .tables import Clock, Tables
from .unique_decision import is_held

#: Stands in the row of a key that no job has taken yet.
NOBODY = ""

#: The most keys or uids in one condition.
AT_ONCE = 500


class Uniqueness:
    """Builds and executes these statements."""

    def __init__(self, tables: Tables, dialect: Dialect, clock: Clock) -> None:
        self._tables = tables
        self._jobs = tables.jobs
        self._keys = tables.unique_keys
        self._duplicates = tables.duplicates
        self._dialect = dialect
        self._now = clock.now

    # -- read

    def holders(self, keys: Iterable[UniqueKey]) -> dict[str, JobId]:
        """Read which jobs hold keys or ask for them, by key; of those of none nothing is in it."""
        asked = {each.key: each for each in keys}
        names, found = list(asked), dict[str, JobId]()
        with self._dialect.engine.connect() as connection:
            for begin in range(0, len(names), AT_ONCE):
                some = names[begin : begin + AT_ONCE]
                for row in connection.execute(self._first_of(some)):
                    if row.asks or is_held(asked[row.name], row):
                        found[row.name] = JobId(row.uid)
        return found

    def _first_of(self, names: Collection[str]) -> Any:
        """Select the jobs of some keys, those that hold them last. In one statement: whoever asks
        may take the key in between."""
        jobs = self._jobs
        one: Any = literal_column("1")
        none: Any = literal_column("0")
        asks = select(
            jobs.c.blocked_by.label("name"), jobs.c.uid, jobs.c.number, jobs.c.state,
            literal_column("0.0").label("age"), one.label("asks"),
        ).where(jobs.c.blocked_by.in_(names))  # fmt: skip
        holds = self.holding(self._keys.c.name.in_(names)).add_columns(none.label("asks"))
        both = union_all(asks, holds).subquery()
        return select(both).order_by(both.c.asks.desc(), both.c.number.desc())

    def leads_to(self, uids: Collection[str]) -> dict[str, str]:
        """Read to which jobs the uids of jobs lead that gave way."""
        uids = [uid for uid in uids if storable(uid) == uid]  # a database refuses others
        if not uids:
            return {}
        table = self._duplicates
        wanted = select(table.c.uid, table.c.leads_to).where(table.c.uid.in_(uids))
        with self._dialect.engine.connect() as connection:
            return {row.uid: row.leads_to for row in connection.execute(wanted)}

    def is_taken(self, key: UniqueKey, uid: str, connection: Connection) -> bool:
        """Read whether another job than *uid* holds a key, or asks for it."""
        rows = connection.execute(self._first_of([key.key])).all()
        return any(row.uid != uid and (row.asks or is_held(key, row)) for row in rows)

    def holding(self, which: Any) -> Any:
        """Select the jobs in the rows of keys, and what tells whether they still hold them."""
        jobs, keys = self._jobs, self._keys
        age = (self._now() - jobs.c.enqueued_at).label("age")
        columns = (keys.c.name, jobs.c.uid, jobs.c.number, jobs.c.state, age)
        return select(*columns).join(jobs, jobs.c.uid == keys.c.uid).where(which)

    # -- ask

    def ask_again(self, uids: Sequence[str], key: str, connection: Connection) -> None:
        """Let jobs that wait since this transaction ask for a key."""
        jobs = self._jobs
        asks = update(jobs).where(jobs.c.uid.in_(uids), self._tables.still(*states.WAITING))
        connection.execute(asks.values(state=states.BLOCKED, blocked_by=key))

    def returns(self, uid: str, keys: Keys | None, connection: Connection) -> None:
        """Let a job that waits again ask for its key again, if its claim has ended its hold."""
        if keys is not None and keys.unique is not None and keys.unique.scope == WAITING:
            self.ask_again([uid], keys.unique.key, connection)

    def forget(self, uids: Sequence[str], connection: Connection) -> None:
        """Remove what leads to jobs that are removed, and the keys that they hold."""
        connection.execute(delete(self._keys).where(self._keys.c.uid.in_([*uids, NOBODY])))
        connection.execute(delete(self._duplicates).where(self._duplicates.c.leads_to.in_(uids)))
