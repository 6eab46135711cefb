"""Lists the jobs of this process, in the order of ``backends.listing``."""

from __future__ import annotations

from collections.abc import Iterable

from ...sharing import user_of
from ..listing import Counted, Cursor, Found, JobFilter
from .entry import Entry


def page(entries: Iterable[Entry], wanted: JobFilter, after: Cursor | None, limit: int) -> Found:
    """Return one page of *entries*, a copy that no other thread changes."""
    chosen = [(_cursor(entry).place, entry) for entry in entries if _fits(entry, wanted)]
    if after is not None:
        chosen = [each for each in chosen if each[0] > after.place]
    chosen.sort(key=lambda each: each[0])
    found = [entry for _, entry in chosen[:limit]]
    last = str(_cursor(found[-1])) if len(chosen) > limit else None
    return Found([entry.job.uid for entry in found], last)


def count(entries: Iterable[Entry], wanted: JobFilter, most: int) -> Counted:
    """Count the entries of a list, up to *most*."""
    number = sum(_fits(entry, wanted) for entry in entries)
    return Counted(min(number, most), number <= most)


def _cursor(entry: Entry) -> Cursor:
    return Cursor(entry.sequence, entry.finished_at, entry.run_at)


def _fits(entry: Entry, wanted: JobFilter) -> bool:
    job = entry.job
    at = entry.finished_at or entry.enqueued_at
    return (
        wanted.has(entry.status)
        and (wanted.names is None or job.call.name in wanted.names)
        and (wanted.queue_names is None or job.options.queue_name in wanted.queue_names)
        and (wanted.user is None or user_of(job.context) == wanted.user)
        and (wanted.error is None or any(map(wanted.is_of, entry.errors)))
        and (wanted.highest is None or entry.sequence <= wanted.highest)
        and (wanted.since is None or at >= wanted.since.timestamp())
        and (wanted.until is None or at <= wanted.until.timestamp())
    )
