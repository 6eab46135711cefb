"""Which of the jobs that ask for a unique key takes it, and to which job the others give way.

Knows the rows of jobs, and no statement: see ``uniqueness``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from ...policies import Keys
from ...uniqueness import LATEST, UniqueKey
from . import states


class UniqueDecision:
    """On the jobs that ask for a key, in the order of their numbers.

    holder: the job in the row of the key; None: there is none. taken_by: which of them has the key
    now; None: none of them. give_way: the others, with the uid to which each leads. replace: the
    number of a job that waits, and the one whose arguments it gets.
    """

    def __init__(self, key: str, holder: Row[Any] | None, asking: Sequence[Row[Any]]) -> None:
        self.key = key
        self.taken_by: Row[Any] | None = None
        self.give_way: list[tuple[Row[Any], str]] = []
        self.replace: dict[int, Row[Any]] = {}
        self._holder = holder
        self._follower: Row[Any] | None = None
        if holder is not None:
            its = [ask for ask in asking if ask.uid == holder.uid]
            self._take(its)  # it is no duplicate of itself
            asking = [ask for ask in asking if ask not in its]
        for ask in asking:
            self._decide(ask)

    def _take(self, asks: Sequence[Row[Any]]) -> None:
        for ask in asks:
            self.taken_by = self._holder = ask

    def _decide(self, ask: Row[Any]) -> None:
        keys = Keys.of(ask.policy)
        unique = keys and keys.unique
        holder: Any = self._holder
        if not unique or holder is None or not self._is_held(unique):
            self._take([ask])
            return
        waits = self.taken_by is not None or holder.state in states.WAITING
        if unique.scope != LATEST or waits:
            self._give_way(ask, holder, unique.scope)
        elif self._follower is None:
            self._follower = ask  # it waits for the end of the holder
        else:
            self._give_way(ask, self._follower, unique.scope)

    def _give_way(self, ask: Row[Any], other: Any, scope: str) -> None:
        self.give_way.append((ask, other.uid))
        if scope == LATEST:
            self.replace[other.number] = ask

    def _is_held(self, key: UniqueKey) -> bool:
        return self.taken_by is not None or is_held(key, self._holder)


def is_held(key: UniqueKey, row: Any) -> bool:
    """Whether the job of a row, which has taken a key, still holds it."""
    return key.is_held_by(
        waits=row.state in states.WAITING,
        ended=row.state in states.ENDED,
        cancelled=row.state == states.CANCELLED,
        age=row.age,
    )
