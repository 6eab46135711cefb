"""What kinds of jobs there are, how many of each, and what each must leave behind."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .place import DEFAULT, QUICK, SLOW


@dataclass(frozen=True)
class Kind:
    """weight: how often it comes. leaves: its lines in the ledger, each exactly once."""

    weight: int
    leaves: tuple[str, ...] = ()
    fails: bool = False  #: it ends FAILED
    follow_up: str = ""  #: the kind of the one job that it enqueues
    untouching: bool = False  #: it touches no database
    queue_name: str = DEFAULT


KINDS = {
    "row": Kind(26, ("row",)),
    # two counters in one job and in either order: deadlocks
    "pair": Kind(8, ("left", "right")),
    "untouching": Kind(16, untouching=True, queue_name=QUICK),
    "parts": Kind(5, ("part 0", "part 1", "part 2")),
    "parent": Kind(8, ("parent",), follow_up="follow_up"),
    "follow_up": Kind(0, ("follow_up",)),
    "retried": Kind(8, ("row",)),
    "failing": Kind(3, fails=True),
    # a few hundred ms: waits and writes last
    "long": Kind(7, ("row",), queue_name=SLOW),
    # writes and waits with the transaction open
    "holding": Kind(4, ("row",), queue_name=SLOW),
    # savepoints: one that is open when the job returns, of either kind; one that is undone; and
    # open ones where a part is committed
    "saved": Kind(4, ("row",)),
    "nested": Kind(4, ("row",)),
    "undone": Kind(3, ("row",)),
    "saved_parts": Kind(3, ("part 0", "part 1")),
    # an error of its own that looks like the database's: one attempt, and no more
    "timed_out": Kind(3, fails=True),
    # its child comes back from the job
    "forking": Kind(2, ("row",), queue_name=QUICK),
}


def kind_of(seed: int, number: int) -> str:
    """Return the kind of an order: whoever is killed in between, it stays the same."""
    weights = [kind.weight for kind in KINDS.values()]
    return random.Random(f"{seed} {number}").choices(list(KINDS), weights)[0]
