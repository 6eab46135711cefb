"""What kinds of jobs there are, how many of each, and what each must leave behind."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """weight: how often it comes. leaves: its lines in the ledger, each exactly once."""

    weight: int
    leaves: tuple[str, ...] = ()
    fails: bool = False  #: it ends FAILED
    follow_up: str = ""  #: the kind of the one job that it enqueues
    untouching: bool = False  #: it touches no database


KINDS = {
    "row": Kind(34, ("row",)),
    # two counters in one job and in either order: deadlocks
    "pair": Kind(8, ("left", "right")),
    "untouching": Kind(20, untouching=True),
    "parts": Kind(6, ("part 0", "part 1", "part 2")),
    "parent": Kind(10, ("parent",), follow_up="follow_up"),
    "follow_up": Kind(0, ("follow_up",)),
    "retried": Kind(8, ("row",)),
    "failing": Kind(3, fails=True),
    # a few hundred ms: waits and writes last
    "long": Kind(7, ("row",)),
    # writes and waits with the transaction open
    "holding": Kind(4, ("row",)),
}


def kind_of(seed: int, number: int) -> str:
    """Return the kind of an order: whoever is killed in between, it stays the same."""
    weights = [kind.weight for kind in KINDS.values()]
    return random.Random(f"{seed} {number}").choices(list(KINDS), weights)[0]
