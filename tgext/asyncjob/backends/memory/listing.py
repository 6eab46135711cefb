"""Lists the jobs of this process, in the order of ``backends.listing``."""

from __future__ import annotations

from collections.abc import Iterable

from ...sharing import user_of
from ..listing import Counted, Cursor, Found, JobFilter, begin_of, end_of
from .record import Record


def page(records: Iterable[Record], wanted: JobFilter, after: Cursor | None, limit: int) -> Found:
    """Return one page of *records*, a copy that no other thread changes."""
    chosen = [(_cursor(record).place, record) for record in records if _fits(record, wanted)]
    if after is not None:
        chosen = [each for each in chosen if each[0] > after.place]
    chosen.sort(key=lambda each: each[0])
    found = [record for _, record in chosen[:limit]]
    last = str(_cursor(found[-1])) if len(chosen) > limit else None
    return Found([record.uid for record in found], last)


def count(records: Iterable[Record], wanted: JobFilter, most: int) -> Counted:
    """Count the records of a list, up to *most*."""
    number = sum(_fits(record, wanted) for record in records)
    return Counted(min(number, most), number <= most)


def _cursor(record: Record) -> Cursor:
    return Cursor(record.sequence, record.finished_at, record.run_at)


def _fits(record: Record, wanted: JobFilter) -> bool:
    at = record.finished_at or record.enqueued_at
    return (
        wanted.has(record.status)
        and (wanted.names is None or record.job.call.name in wanted.names)
        and (wanted.queue_names is None or record.options.queue_name in wanted.queue_names)
        and (wanted.user is None or user_of(record.job.context) == wanted.user)
        and (wanted.error is None or any(map(wanted.is_of, record.errors)))
        and (wanted.highest is None or record.sequence <= wanted.highest)
        and (wanted.since is None or at >= begin_of(wanted.since))
        and (wanted.until is None or at <= end_of(wanted.until))
    )
