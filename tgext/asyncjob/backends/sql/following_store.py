"""Reads jobs by their uids. That of a job that gave way to another one of its unique key leads to
that one: no row has such a uid, so a look at any other job costs nothing more."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from sqlalchemy import select

from ...job import NO_PROGRESS, JobId, Progress, Snapshot
from ...uniqueness import UniqueKey
from ..brief import Brief
from ..overview import QueuePosition
from . import states
from .store import SqlStore


class FollowingStore(SqlStore):
    """The part of the backend that reads jobs by their uids."""

    def _lead(self, uid: str) -> str | None:
        """The uid of the job to which one gave way; None if it did not."""
        return self._uniqueness.leads_to([uid]).get(uid)

    def holders(self, keys: Collection[UniqueKey]) -> dict[str, JobId]:
        self.schema.ensure()
        return self._uniqueness.holders(keys)

    def get(self, uid: str) -> Snapshot | None:
        found = self.get_many([uid])
        return found[0] if found else None

    def get_many(self, uids: Sequence[str]) -> list[Snapshot]:
        found = self._snapshots.read(uids)
        if len(found) == len(uids):
            return found
        by_uid: dict[str, Snapshot] = {each.job.uid: each for each in found}
        leads = self._uniqueness.leads_to([uid for uid in uids if uid not in by_uid])
        firsts = {each.job.uid: each for each in self._snapshots.read(list(leads.values()))}
        for uid, lead in leads.items():
            if (first := firsts.get(JobId(lead))) is not None:
                by_uid[uid] = replace(first, is_duplicate=True)
        return [by_uid[uid] for uid in uids if uid in by_uid]

    def progress(self, uid: str) -> Progress | None:
        state = self._state(uid)
        if state is None and (lead := self._lead(uid)) is not None:
            return self.progress(lead)
        if state is None or state in states.ENDED:
            return None
        return self._progress.get(uid) or NO_PROGRESS

    def _state(self, uid: str) -> int | None:
        wanted = select(self.tables.jobs.c.state).where(self.tables.is_job(uid))
        with self._dialect.engine.connect() as connection:
            return connection.execute(wanted).scalar()

    def position(self, uid: str) -> QueuePosition | None:
        found = self.overview.position(uid)
        if found is None and (lead := self._lead(uid)) is not None:
            return self.overview.position(lead)
        return found

    def briefs(self, uids: Collection[str]) -> dict[str, Brief]:
        found = self._briefs.read(uids)
        leads = self._uniqueness.leads_to([uid for uid in uids if uid not in found])
        firsts = self._briefs.read(list(leads.values()))
        for uid, lead in leads.items():
            if lead in firsts:
                found[uid] = firsts[lead]._replace(uid=uid)
        return found

    def wait_for_end(self, uid: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            state = self._state(uid)
            if state is None and (lead := self._lead(uid)) is not None:
                uid = lead
                continue
            left = until - time.monotonic()
            if state is None or state in states.ENDED or left <= 0:
                return
            self._wakeup.wait_for_end(left)
