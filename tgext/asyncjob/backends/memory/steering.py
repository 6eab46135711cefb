"""What people do with the jobs of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from ...errors import UnknownJob
from ...sentence import Sentence
from ..audit import Act, AnyAudit, Audit
from ..listing import end_of
from ..overview import PausedQueue
from .changes import JobChanges
from .record import Record
from .spinlock import SpinLock, running_deferred

Result = TypeVar("Result")

_UID = re.compile(r"asyncjob_(\d+)_([0-9a-f]{8})_[0-9a-f]{32}", re.ASCII)


class Steering(JobChanges):
    """The part of the backend that people steer jobs by; see ``backends.steering``."""

    audit: AnyAudit
    _audit: Audit
    _lock: SpinLock
    _origin: str

    def cancel(self, uid: str, connection: Any = None, act: Act | None = None) -> bool | None:
        return self._noted(act, "cancel", uid, self._change(self._cancel, uid))

    def retry(self, uid: str, connection: Any = None, act: Act | None = None) -> bool | None:
        return self._noted(act, "retry", uid, self._change(self._retry, uid))

    def _change(self, change: Callable[[Record, bool], bool], uid: str) -> bool | None:
        def of_found(now: bool) -> bool | None:
            record = self._find(uid)
            return None if record is None else change(record, now)

        return self._steered(of_found)

    @running_deferred
    def _steered(self, change: Callable[[bool], Result]) -> Result:
        """Make a change with the lock held; if this thread may hold it, only ask what becomes of
        that, and make it later. change: called with whether to make it now."""
        with self._lock.unless_mine() as is_locked:
            found = change(bool(is_locked))
            if not is_locked:
                self._lock.deferred.append(partial(change, True))
            return found

    def change_many(
        self,
        action: str,
        uids: Sequence[str],
        until: datetime | None = None,
        act: Act | None = None,
        subject: str = "",
    ) -> int:
        before = None if until is None else end_of(until)

        def change(now: bool) -> int:
            found = [self._records[uid] for uid in uids if uid in self._records]
            if action == "cancel":
                return sum(self._cancel(each, now) for each in found if not each.cancelled)
            return sum(
                self._retry(each, now)
                for each in found
                if before is None or (each.finished_at or 0.0) <= before
            )

        changed = self._steered(change)
        self._audit.note(act, action, subject, changed)
        return changed

    def highest(self) -> int:
        return self._ready_queue.last_sequence

    def pause(self, queue_name: str, user: str | None = None, act: Act | None = None) -> bool:
        paused = self._steered(partial(self._pause, queue_name, user))
        return bool(self._noted(act, "pause", queue_name, paused))

    def resume(self, queue_name: str, act: Act | None = None) -> bool:
        resumed = self._steered(partial(self._resume, queue_name))
        return bool(self._noted(act, "resume", queue_name, resumed))

    def limit(self, queue_name: str, most: int | None, act: Act | None = None) -> None:
        self._steered(partial(self._limit, queue_name, most))
        self._noted(act, "limit", f"{queue_name}: {'no limit' if most is None else most}", True)

    def queue_limits(self) -> dict[str, int]:
        return dict(sorted(self._ready_queue.limits.items()))

    def running_in(self, queue_name: str) -> int:
        return self._ready_queue.running.get(queue_name, 0)

    def paused(self) -> list[PausedQueue]:
        return sorted(self._paused.values())

    def _noted(self, act: Act | None, action: str, subject: str, done: bool | None) -> bool | None:
        if done is not None:
            self._audit.note(act, action, subject, int(done))
        return done

    def _find(self, uid: str) -> Record | None:
        record = self._records.get(uid) or self._unique.lead(uid)
        if record is None and not uid.startswith(self._origin):
            made = _UID.fullmatch(uid)
            if made is not None:
                if int(made[1]) == os.getpid():
                    raise UnknownJob(uid, Sentence("it was made by another queue of this process"))
                raise UnknownJob(
                    uid,
                    Sentence(
                        "it was made by process %(pid)s and this is %(own)s; on the memory backend "
                        "a process knows only its own jobs, set asyncjob.backend = sql",
                        pid=made[1],
                        own=os.getpid(),
                    ),
                )
        return record
