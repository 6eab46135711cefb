"""What is read of limits and rates, for sentences, commands and pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import NamedTuple

from ..policies import Keys
from ..sentence import Sentence
from ..sharing import Share, owner_shown, queue_of
from ..wording import lasting

#: Where counting the waiting jobs of a key stops, and the most keys or owners of a list.
MOST_WAITING, MOST_KEYS = 1_000, 200

#: How many waiting jobs are counted in all: of each of many keys fewer than MOST_WAITING.
MOST_COUNTED = 20_000


class KeyUse(NamedTuple):
    """What counts for one key now."""

    key: str
    most: int  #: the limit; of a rate: the starts in a window
    seconds: float | None  #: the window of a rate; None: a limit
    used: int  #: jobs that hold a slot; of a rate: starts that count, or are about to be
    next_in: float | None  #: seconds until the next start is allowed; None: not known, or now

    @property
    def text(self) -> Sentence:
        """The limit, or the rate, as in "2 at once", "10 in 1m 0s"."""
        if self.seconds is None:
            return Sentence("%(most)s at once", most=self.most)
        window = lasting(timedelta(seconds=self.seconds))
        window = window if self.seconds >= 1 else f"{self.seconds:g}s"
        return Sentence("%(most)s in %(window)s", most=self.most, window=window)

    @property
    def next_text(self) -> Sentence:
        """When the next start is allowed, in words."""
        if not self.is_full:
            return Sentence("now")
        if self.next_in is None:
            return Sentence("when one ends")
        return Sentence("in %(time)s", time=lasting(timedelta(seconds=self.next_in)))

    @property
    def is_full(self) -> bool:
        """Whether no job of the key can be admitted now."""
        return self.used >= self.most


class KeyState(NamedTuple):
    """One key of a list."""

    use: KeyUse
    running: int
    waiting: int
    is_capped: bool = False  #: more may wait


class KeyStates(NamedTuple):
    """Keys of which jobs wait or run, the first ones by name."""

    states: list[KeyState]
    has_more: bool  #: there may be more keys than these


class OwnerState(NamedTuple):
    """One owner of a list of those who take turns."""

    queue_name: str
    priority: int
    owner: str  #: as it is shown: see ``sharing.owner_shown``
    waiting: int  #: jobs that wait for their turn
    is_capped: bool = False  #: more may wait


class OwnerStates(NamedTuple):
    """Owners whose jobs wait for their turn, those first of whom most wait."""

    states: list[OwnerState]
    has_more: bool  #: there may be more owners than these


class Keyed:
    """A part of ``Backend``: what it says of limits, rates and turns."""

    def uses(self, keys: Keys) -> list[KeyUse]:
        """Read what counts for the keys of a job."""
        return []

    def key_states(self) -> KeyStates:
        """Read the keys of which jobs wait or run, up to MOST_KEYS."""
        return KeyStates([], has_more=False)

    def owner_states(self) -> OwnerStates:
        """Read the owners whose jobs wait for their turn, up to MOST_KEYS."""
        return OwnerStates([], has_more=False)

    def blocked(self, uids: Collection[str]) -> set[str]:
        """Read which of these jobs wait to be admitted: by a key, or for their turn."""
        return set()


def most_waiting(number: int) -> int:
    """Where counting the waiting jobs of each of so many keys stops."""
    return min(MOST_WAITING, MOST_COUNTED // max(1, number))


def owners_of(
    waiting: Mapping[Share, int], *, has_more: bool, capped: Collection[Share] = ()
) -> OwnerStates:
    """Return a list of owners. waiting: the number of jobs by owner; capped: those of whom not all
    were counted; has_more: whether there may be more owners."""
    found = [
        OwnerState(*queue_of(share.turn), owner_shown(share), number, share in capped)
        for share, number in waiting.items()
        if number
    ]
    found.sort(key=lambda each: (-each.waiting, *each))
    return OwnerStates(found[:MOST_KEYS], has_more or len(found) > MOST_KEYS)


def uses_of(keys: Keys, used: dict[str, int], next_in: float | None) -> list[KeyUse]:
    """Return the uses of the keys of a job. used: by key; next_in: of its rate."""
    found = []
    for each in (keys.limit, keys.rate):
        if each is not None:
            seconds: float | None = getattr(each, "seconds", None)
            is_full = used[each.key] >= each.most
            soon = next_in if is_full and seconds is not None else None
            found.append(KeyUse(each.key, each.most, seconds, used[each.key], soon))
    return found
