"""A job that waits for its first attempt, in as few bytes as that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...call import Call, of_fields
from ...job import Job, JobId
from ...task_options import TaskOptions
from .entry import Entry
from .record import Record


class WaitingRecord(Record):
    """A job without a delay and without keys, as it was enqueued; it never changes.

    A hundred thousand may wait, so it has no object that can be made again: neither a ``Job`` with
    its ``Call``, nor what an attempt and its history need. An ``Entry`` takes its place when it is
    claimed, or is about to change in any other way.
    """

    __slots__ = (
        "_args", "_context", "_kwargs", "_target", "enqueued_at", "options", "sequence", "uid",
    )  # fmt: skip

    _target: Callable[..., Any]
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any] | None
    _context: Mapping[str, Any] | None
    options: TaskOptions
    uid: JobId

    def __init__(self, job: Job, now: float, sequence: int) -> None:
        self.uid, call, self.options, _, self._context, _ = job
        self._target, self._args, self._kwargs = call
        self.enqueued_at = now
        self.sequence = sequence

    @property
    def job(self) -> Job:
        call = of_fields(Call, (self._target, self._args, self._kwargs))
        return of_fields(Job, (self.uid, call, self.options, None, self._context, None))

    @property
    def keys(self) -> None:
        return None

    def entry(self) -> Entry:
        """Return the entry that takes its place."""
        entry = Entry(self.job, self.enqueued_at)
        entry.sequence = self.sequence
        return entry
