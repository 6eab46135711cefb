"""The unique keys of the jobs of this process, and where the uids of those lead that gave way.

A key is that of the job that took it last; whether that one still holds it is seen from its state.
Nothing here takes a lock: the backend does.
"""

from __future__ import annotations

from collections import defaultdict

from ...job import CANCELLED, READY
from ...uniqueness import LATEST, WAITING, UniqueKey
from .entry import MOST_ERRORS, Entry


class UniqueEntries:
    """See the module."""

    def __init__(self) -> None:
        self._taken: dict[str, Entry] = {}
        #: by key: those that wait for the end of the one that has it
        self._following: dict[str, Entry] = {}
        self._leads: dict[str, Entry] = {}
        self._led: defaultdict[str, list[str]] = defaultdict(list)

    @property
    def number_following(self) -> int:
        """How many jobs wait for the end of the one that has their key."""
        return len(self._following)

    def lead(self, uid: str) -> Entry | None:
        """Return the job to which one gave way; None if it did not."""
        return self._leads.get(uid)

    def holder(self, key: UniqueKey, now: float) -> Entry | None:
        """Return the job that holds a key; None if none does."""
        entry = self._taken.get(key.key)
        if entry is None:
            return None
        is_held = key.is_held_by(
            waits=entry.status is READY,
            ended=entry.status.is_final,
            cancelled=entry.status is CANCELLED,
            age=now - entry.enqueued_at,
        )
        return entry if is_held else None

    def is_taken(self, entry: Entry, now: float) -> bool:
        """Whether another job holds the key of this one."""
        key = unique_of(entry)
        holder = None if key is None else self.holder(key, now)
        return holder is not None and holder is not entry

    def asks_again(self, entry: Entry) -> bool:
        """Whether a job that waits again asks for its key: its claim may have ended its hold, or
        the one that follows it has newer arguments."""
        key = unique_of(entry)
        return key is not None and key.scope in (WAITING, LATEST)

    def follows(self, entry: Entry) -> bool:
        """Whether a job waits for the end of the one that has its key."""
        key = unique_of(entry)
        return key is not None and self._following.get(key.key) is entry

    def ask(self, entry: Entry, now: float) -> tuple[Entry | None, Entry | None]:
        """Decide on a job that waits: return the one to which it gives way, and the one that gives
        way to it. Both None: it has its key, or none, or follows."""
        key = unique_of(entry)
        if key is None:
            return None, None
        holder = self.holder(key, now)
        if holder is None or holder is entry:
            self._taken[key.key] = entry
            return None, self._following.pop(key.key, None)
        if key.scope != LATEST or holder.status is READY:
            return holder, None
        follower = self._following.setdefault(key.key, entry)
        if follower is not entry:
            return follower, None
        entry.admitted = False
        return None, None

    def give_way(self, entry: Entry, other: Entry) -> None:
        """Let the uid of a job lead to another one, which has what its attempts have left."""
        uid = entry.job.uid
        other.errors = (*entry.errors, *other.errors)[-MOST_ERRORS:]
        for each in [uid, *self._led.pop(uid, ())]:
            self._leads[each] = other
            self._led[other.job.uid].append(each)

    def is_coalesced(self, entry: Entry) -> bool:
        """Whether a job takes the arguments of those that give way to it."""
        key = unique_of(entry)
        return key is not None and key.scope == LATEST

    def ended(self, entry: Entry) -> Entry | None:
        """Note the end of a job; return the one that follows it."""
        key = unique_of(entry)
        if key is None:
            return None
        if self._following.get(key.key) is entry:
            del self._following[key.key]
        elif self._taken.get(key.key) is entry and key.key in self._following:
            follower = self._taken[key.key] = self._following.pop(key.key)
            return follower
        return None

    def forget(self, entry: Entry) -> None:
        """Forget a job that is removed, and what leads to it."""
        key = unique_of(entry)
        if key is not None:
            if self._taken.get(key.key) is entry:
                del self._taken[key.key]
            for uid in self._led.pop(entry.job.uid, ()):
                del self._leads[uid]


def unique_of(entry: Entry) -> UniqueKey | None:
    """The unique key of a job; None if it has none."""
    keys = entry.job.keys
    return None if keys is None else keys.unique
