"""What people do with the jobs of a database, and who is woken after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, func, select

from ...job import storable
from ...policies import Keys
from ..audit import Act
from ..overview import PausedQueue
from .following_store import FollowingStore


class SteeredStore(FollowingStore):
    """The part of the backend that people steer jobs by; see ``backends.steering``."""

    def cancel(
        self, uid: str, connection: Connection | None = None, act: Act | None = None
    ) -> bool | None:
        with self._on(connection) as given:
            cancelled = self._steering.cancel(uid, given, act)
        if cancelled is None and (lead := self._lead(uid)) is not None:
            return self.cancel(lead, connection, act)
        if cancelled:
            self._looked.clear()
            self._wakeup.ended()
            self._admit_beside(uid, connection)
        return cancelled

    def retry(
        self, uid: str, connection: Connection | None = None, act: Act | None = None
    ) -> bool | None:
        with self._on(connection) as given:
            retried = self._steering.retry(uid, given, act)
        if retried is None and (lead := self._lead(uid)) is not None:
            return self.retry(lead, connection, act)
        if retried:
            self._progress.forget([uid])
            self._wakeup.wake()
            self._admit_beside(uid, connection)
        return retried

    def _admit_beside(self, uid: str, connection: Connection | None) -> None:
        """Have jobs admitted that wait for the same as this one. In the transaction on *connection*
        it is too early: after its commit the maintenance does it."""
        if connection is not None:
            return
        jobs = self.tables.jobs
        wanted = select(jobs.c.policy).where(self.tables.is_job(uid))
        with self._dialect.engine.connect() as own:
            policy = own.execute(wanted).scalar()
        self._admissions.request([Keys.of(policy)])

    def change_many(
        self,
        action: str,
        uids: Sequence[str],
        until: datetime | None = None,
        act: Act | None = None,
        subject: str = "",
    ) -> int:
        with self._dialect.begin() as own:
            if action == "cancel":
                rows, changed = self._steering.cancel_many(uids, own)
            else:
                rows = self._steering.retry_many(uids, until, own)
                changed = len(rows)
            self._audit.note(own, act, action, subject, changed)
        self._looked.clear()
        self._wakeup.ended()
        if rows and action != "cancel":
            self._progress.forget([row.uid for row in rows])
            self._made_available({row.queue_name for row in rows}, threads=changed)
        self._admissions.request(Keys.of(row.policy) for row in rows)
        return changed

    def highest(self) -> int:
        with self._dialect.engine.connect() as connection:
            found = connection.execute(select(func.max(self.tables.jobs.c.number)))
            return found.scalar() or 0

    def pause(self, queue_name: str, user: str | None = None, act: Act | None = None) -> bool:
        self._taking.is_paused = True
        return self._pausing.pause(queue_name, user, act)

    def resume(self, queue_name: str, act: Act | None = None) -> bool:
        if storable(queue_name) != queue_name:  # a database refuses it
            return False
        resumed = self._pausing.resume(queue_name, act)
        self._made_available([queue_name])
        return resumed

    def limit(self, queue_name: str, most: int | None, act: Act | None = None) -> None:
        self._taking.is_paused = True
        self._pausing.limit(queue_name, most, act)
        self._made_available([queue_name])

    def queue_limits(self) -> dict[str, int]:
        return self._pausing.limits()

    def running_in(self, queue_name: str) -> int:
        return self._pausing.running_in_each([queue_name])[queue_name]

    def running_in_each(self, queue_names: Collection[str]) -> dict[str, int]:
        return self._pausing.running_in_each(queue_names)

    def paused(self) -> list[PausedQueue]:
        return self._pausing.paused()
