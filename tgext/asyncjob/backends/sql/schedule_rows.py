"""Converts schedules to rows, and rows to schedules and their calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from typing import Any

from sqlalchemy import Row

from ...call import Call
from ...errors import AsyncJobError, NotSerializable, Unreadable
from ...policies import NO_POLICY, Policy
from ...recurrence import Recurrence
from ...serialization import CallSerializer, SerializedCall
from ...task import Task, held_at
from ...task_options import DEFAULT_OPTIONS, TaskOptions
from ..schedules import STALE_SECONDS, NewSchedule, ScheduleState
from .tables import instant


class ScheduleRows:
    """Converts with one serializer. identity: returns that of the tables; None: they have none."""

    def __init__(self, serializer: CallSerializer, identity: Callable[[], str | None]) -> None:
        self._serializer = serializer
        self._identity = identity

    def of(self, schedule: NewSchedule) -> dict[str, Any]:
        """Return the columns that a schedule defines. Raises NotSerializable."""
        options = _options_text(schedule)
        bound = self._bound(schedule.name, options)
        serialized = self._serializer.dump(_signed_as(schedule.name), schedule.call, bound=bound)
        return {
            "name": schedule.name,
            "call_name": serialized.name,
            "payload": serialized.payload,
            "signature": serialized.signature,
            "options": options,
            **timing_of(schedule.recurrence),
        }

    def _bound(self, name: str, options: str | None) -> str:
        """Return the digest that a signature covers beside the call."""
        if not self._serializer.signs:
            return ""
        text = json.dumps(["schedule", self._identity(), name, options])
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    def call(self, row: Row[Any]) -> tuple[Call, TaskOptions]:
        """Read the call of a row, and the options of its jobs: those of the task in this process,
        with what the schedule has changed. Raises as ``CallSerializer.load`` does."""
        serialized = SerializedCall(row.call_name, row.payload, row.signature)
        bound = self._bound(row.name, row.options)
        try:
            changed = json.loads(row.options) if row.options else {}
            implied = int(changed.get("takes_context", False))
        except (ValueError, AttributeError) as error:
            raise Unreadable(f"the options of the schedule {row.name!r}: {error}") from None
        call = self._serializer.load(_signed_as(row.name), serialized, bound=bound, implied=implied)
        task = self._serializer.task_of(serialized)
        if task is not None:
            return call, task.using(**changed)
        return call, TaskOptions(**changed) if changed else DEFAULT_OPTIONS

    def state(self, row: Row[Any]) -> ScheduleState:
        """Read the state of a row. row: with ``now``, the time of the clock of the database."""
        try:
            recurrence = recurrence_of(row)
        except AsyncJobError:
            recurrence = None
        declared_at = row.declared_at
        is_stale = declared_at is not None and row.now - declared_at > STALE_SECONDS
        return ScheduleState(
            name=row.name,
            task=row.call_name,
            recurrence=recurrence,
            next_at=None if row.next_at is None or is_stale else instant(row.next_at),
            is_declared=declared_at is not None,
            is_stale=is_stale,
            paused_since=None if row.paused_at is None else instant(row.paused_at),
            paused_by=row.paused_by,
            version=row.version,
        )


def _signed_as(name: str) -> str:
    return f"schedule {name}"  # no uid of a job is like that


def timing_of(recurrence: Recurrence) -> dict[str, Any]:
    """Return the columns of a recurrence."""
    every = recurrence.every
    return {
        "every": None if every is None else int(every.total_seconds()),
        "cron": recurrence.cron,
        "timezone": recurrence.timezone,
        "catch_up": str(recurrence.catch_up),
    }


def recurrence_of(row: Row[Any]) -> Recurrence:
    """Read the recurrence of a row. Raises ConfigError for one that this process does not
    understand, MissingExtra."""
    catch_up = row.catch_up
    return Recurrence(
        cron=row.cron,
        every=None if row.every is None else timedelta(seconds=row.every),
        timezone=row.timezone,
        catch_up=int(catch_up) if catch_up.isdecimal() else catch_up,
    )


def _options_text(schedule: NewSchedule) -> str | None:
    """The options that differ from those of the task that the call names, as JSON."""
    target = schedule.call.target
    held = held_at(target) if hasattr(target, "__qualname__") else None
    usual = held if isinstance(held, Task) and held.func is target else DEFAULT_OPTIONS
    changed = _differing(schedule.options, usual, TaskOptions)
    if schedule.options.takes_context:  # it must be known before the task is
        changed["takes_context"] = True
    policies = _differing(_policy_of(schedule.options), _policy_of(usual), Policy)
    for name, value in {**changed, **policies}.items():
        is_held = isinstance(value, (str, int, float, type(None))) and not callable(value)
        if not is_held or (name in policies and usual is DEFAULT_OPTIONS):
            raise NotSerializable(
                f"{name}: expected what a worker finds by the row of a schedule, got an object of "
                f"this process; declare it at {schedule.call.name}, by @task({name}=...)"
            )
    changed |= policies
    return json.dumps(changed) if changed else None


def _policy_of(options: TaskOptions) -> Policy:
    return (options.policy if isinstance(options, Task) else None) or NO_POLICY


def _differing(given: Any, usual: Any, kind: Any) -> dict[str, Any]:
    """Return the values of *given* that differ from those of *usual*, by the names of fields."""
    names = [field.name for field in fields(kind)]
    return {name: getattr(given, name) for name in names
            if getattr(given, name) != getattr(usual, name)}  # fmt: skip
