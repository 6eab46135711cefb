"""The schedules of one process, lost when it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from ... import tick_reasons
from ...errors import ConfigError
from ...job import Job, JobId
from ...recurrence import Recurrence
from ...task import keys_for
from ..audit import Act, Audit
from ..schedules import (
    NewSchedule,
    ScheduleState,
    ScheduleStore,
    Tick,
    audited,
    other_origin,
)

log = logging.getLogger(__name__)

#: Number of ticks of each schedule that are kept.
MOST_TICKS = 1_000


class _Entry:
    """One schedule and its state; instants are seconds since the epoch."""

    def __init__(self, new: NewSchedule, next_at: float) -> None:
        self.new = new
        self.next_at = next_at
        self.version = 1
        self.paused: tuple[float, str | None] | None = None
        self.ticks: deque[Tick] = deque(maxlen=MOST_TICKS)

    def state(self) -> ScheduleState:
        since, user = (None, None) if self.paused is None else self.paused
        return ScheduleState(
            name=self.new.name,
            task=self.new.call.name,
            recurrence=self.new.recurrence,
            next_at=_instant(self.next_at),
            is_declared=self.new.is_declared,
            is_stale=False,
            paused_since=None if since is None else _instant(since),
            paused_by=user,
            version=self.version,
        )


class MemorySchedules(ScheduleStore):
    """new_uid, enqueue, audit, leads_to: of the backend. clock: returns seconds since the epoch."""

    def __init__(
        self,
        new_uid: Callable[[], JobId],
        enqueue: Callable[[Sequence[Job]], None],
        clock: Callable[[], float],
        audit: Callable[[], Audit],
        leads_to: Callable[[str | None], str | None],
    ) -> None:
        self._leads_to = leads_to
        self._audit = audit
        self._new_uid = new_uid
        self._enqueue = enqueue
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """Forget all schedules, in a forked child."""
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}

    def put(self, schedule: NewSchedule, connection: Any = None) -> ScheduleState:
        with self._lock:
            now = self._clock()
            entry = self._entries.get(schedule.name)
            if entry is None:
                next_at = schedule.recurrence.next_after(now)
                entry = self._entries[schedule.name] = _Entry(schedule, next_at)
            elif entry.new.is_declared != schedule.is_declared:
                raise ConfigError(other_origin(schedule.name, entry.new.is_declared))
            elif entry.new != schedule:
                if entry.new.recurrence.timing != schedule.recurrence.timing:
                    entry.next_at = schedule.recurrence.next_after(now)
                entry.new = schedule
                entry.version += 1
            found = entry.state()
        self.wake()
        return found

    def declare(self, schedules: Sequence[NewSchedule]) -> None:
        for schedule in schedules:
            try:
                self.put(schedule)
            except ConfigError as error:
                log.error("schedule=%s cannot be declared: %s", schedule.name, error)

    def get(self, name: str, connection: Any = None) -> ScheduleState | None:
        with self._lock:
            entry = self._entries.get(name)
            return None if entry is None else entry.state()

    def all(self) -> list[ScheduleState]:
        with self._lock:
            found = [entry.state() for entry in self._entries.values()]
        return sorted(found, key=lambda state: state.name)

    def retime(self, name: str, recurrence: Recurrence, connection: Any = None) -> bool:
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return False
            self.put(entry.new._replace(recurrence=recurrence))
            return True

    def pause(
        self, name: str, user: str | None, connection: Any = None, act: Act | None = None
    ) -> bool:
        with self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.paused is not None:
                return self._noted(act, "pause", name, False)
            entry.paused = (self._clock(), user)
            entry.version += 1
            return self._noted(act, "pause", name, True)

    def resume(self, name: str, connection: Any = None, act: Act | None = None) -> bool:
        with self._lock:
            entry = self._entries.get(name)
            if entry is None or entry.paused is None:
                return self._noted(act, "resume", name, False)
            self._fire(entry)
            entry.paused = None
            entry.version += 1
            return self._noted(act, "resume", name, True)

    def delete(self, name: str, connection: Any = None, act: Act | None = None) -> bool:
        with self._lock:
            return self._noted(act, "delete", name, self._entries.pop(name, None) is not None)

    def _noted(self, act: Act | None, action: str, name: str, done: bool) -> bool:
        self._audit().note(act, action, audited(name), int(done))
        return done

    def run_now(self, name: str, connection: Any = None, act: Act | None = None) -> Job | None:
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            job = self._job(entry)
            entry.ticks.append(Tick(_instant(self._clock()), job.uid, tick_reasons.RUN_NOW))
            self._enqueue([job])
            self._noted(act, "run now", name, True)
            return job

    def ticks(self, name: str, limit: int) -> list[Tick]:
        with self._lock:
            entry = self._entries.get(name)
            found = [] if entry is None else list(entry.ticks)
        for number, tick in enumerate(found):
            leads_to = self._leads_to(tick.uid)
            if leads_to is not None:
                found[number] = tick._replace(reason=tick_reasons.duplicate_of(leads_to))
        return sorted(found, key=lambda tick: tick.instant, reverse=True)[:limit]

    def due_at(self) -> float:
        with self._lock:
            next_at = min((entry.next_at for entry in self._entries.values()), default=None)
        if next_at is None:
            return float("inf")
        return time.monotonic() + next_at - self._clock()

    def fire(self) -> int:
        with self._lock:
            now = self._clock()
            due = [entry for entry in self._entries.values() if entry.next_at <= now]
            return sum(self._fire(entry) for entry in sorted(due, key=lambda each: each.next_at))

    def _fire(self, entry: _Entry) -> int:
        """Record the ticks of one schedule that are due, and enqueue their jobs."""
        fired, now = 0, self._clock()
        why_not = None if entry.paused is None else tick_reasons.paused(entry.paused[1])
        known = {tick.instant for tick in entry.ticks}
        while entry.next_at <= now:
            due = entry.new.recurrence.due(entry.next_at, now, why_not)
            # Known: the clock was set back, and the schedule changed.
            instants = [each for each in map(_instant, due.fired) if each not in known]
            try:
                jobs = [self._job(entry) for _ in instants]
            except Exception as error:  # noqa: BLE001 - a key may be a callable of the application's
                log.error("schedule=%s cannot enqueue a job: %s", entry.new.name, error)
                due = entry.new.recurrence.due(entry.next_at, now, tick_reasons.refused(error))
                instants, jobs = [], []
            entry.ticks.extend(Tick(_instant(at), None, reason) for at, reason in due.skipped)
            entry.ticks.extend(
                Tick(at, job.uid, None) for at, job in zip(instants, jobs, strict=True)
            )
            entry.next_at = due.next_at
            self._enqueue(jobs)
            fired += len(jobs)
        return fired

    def _job(self, entry: _Entry) -> Job:
        call, options = entry.new.call, entry.new.options
        return Job(self._new_uid(), call, options, keys=keys_for(call, options))


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
