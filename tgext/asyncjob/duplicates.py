"""Tells, before jobs of a unique task are stored, which of them are duplicates.

This is only the beginning: of jobs that other transactions enqueue at the same time nobody knows
yet. The backend decides on what is stored, after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from .job import Job, JobId
from .uniqueness import LATEST, WAITING, UniqueKey

Holders = Callable[[Collection[UniqueKey]], dict[str, JobId]]


class Enqueued(NamedTuple):
    """What comes of an enqueue. Where no job can be a duplicate that is the ``Job`` itself."""

    job: Job
    is_duplicate: bool = False  #: it is the job of an earlier enqueue

    @property
    def uid(self) -> JobId:
        return self.job.uid

    @classmethod
    def of(cls, found: Job | Enqueued) -> Enqueued:
        """Return what comes of an enqueue in its long form."""
        return cls(found) if isinstance(found, Job) else found


def sorted_out(
    jobs: Sequence[Job], own: Iterable[Job], holders: Holders, is_in_transaction: bool
) -> tuple[list[Job], list[Enqueued]]:
    """Return the jobs that are to be stored, and what comes of each.

    own: those that this transaction has enqueued before. holders: see ``Backend.holders``.
    is_in_transaction: whether the jobs are stored by a later commit.
    """
    keys = [unique for job in jobs if (unique := _unique(job)) is not None]
    if keys[0].scope == LATEST:
        return _latest(jobs)
    firsts = {key.key: job for job in own if (key := _unique(job)) is not None}
    held, stored, found = holders(keys), list[Job](), list[Enqueued]()
    for job, key in zip(jobs, keys, strict=True):
        first, holder = firsts.get(key.key), held.get(key.key)
        # A waiting job may begin before this transaction is committed, and would not see what it
        # writes. So one more is stored, which gives way after the commit if the other still waits.
        is_stored = holder is None or (key.scope == WAITING and is_in_transaction)
        if first is None and is_stored:
            firsts[key.key] = job
            stored.append(job)
        if holder is not None:
            found.append(Enqueued(job._replace(uid=holder), True))
        elif first is not None:
            found.append(Enqueued(first, True))
        else:
            found.append(Enqueued(job))
    return stored, found


def _latest(jobs: Sequence[Job]) -> tuple[list[Job], list[Enqueued]]:
    """Of those enqueued together only the last of each key is stored: with the latest arguments."""
    last = {key.key: job for job in jobs if (key := _unique(job)) is not None}
    found = []
    for job in jobs:
        key = _unique(job)
        latest = job if key is None else last[key.key]
        found.append(Enqueued(latest, latest is not job))
    return list(last.values()), found


def _unique(job: Job) -> UniqueKey | None:
    return None if job.keys is None else job.keys.unique
