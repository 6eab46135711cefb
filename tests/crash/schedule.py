"""What is done to whom, and when, made from a seed: the same seed, the same blows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from signal import SIGKILL, SIGSTOP, SIGTERM, Signals

from .place import SQLITE
from .points import AFTER_COMMIT, AFTER_WORK, BEFORE_COMMIT, BEFORE_WORK

WORKER = "worker"
ENQUEUER = "enqueuer"

#: What the server does: it cuts a connection that works, or one that is idle, is ended and
#: started again, or takes no writes for a while.
CUT, CUT_IDLE, RESTART, READ_ONLY = "cut", "cut idle", "restart", "read-only"


@dataclass(frozen=True)
class Blow:
    """One of them. which: a signal, or what the server does. point: where the process is to
    strike itself; nothing: the signal comes from outside, at whatever moment."""

    seconds: float  #: after all processes have come up
    which: Signals | str
    point: str
    role: str
    draw: float  #: 0 to 1, chooses among those that there are


def schedule(seed: int, database: str, blows: int, seconds: float) -> list[Blow]:
    """Deal *blows*, spread over *seconds*; among fourteen there is each kind."""
    chance = random.Random(f"{seed} {database}")
    dealt = _deal(chance, database)
    instants = sorted(chance.random() * seconds for _ in range(blows))
    return [Blow(instant, *next(dealt), chance.random()) for instant in instants]


def _deal(chance: random.Random, database: str) -> Iterator[tuple[Signals | str, str, str]]:
    while True:
        deck: list[tuple[Signals | str, str, str]] = [
            (SIGKILL, "", WORKER),
            (SIGKILL, AFTER_COMMIT, WORKER),
            (SIGKILL, BEFORE_COMMIT, WORKER),
            (SIGKILL, chance.choice(["", BEFORE_COMMIT, AFTER_COMMIT]), ENQUEUER),
            (SIGSTOP, BEFORE_WORK, WORKER),
            (SIGSTOP, chance.choice(["", AFTER_WORK, BEFORE_COMMIT, AFTER_COMMIT]), WORKER),
            (SIGTERM, "", WORKER),
        ]
        if database == SQLITE:
            deck += [
                (SIGKILL, "", WORKER),
                (SIGKILL, AFTER_WORK, WORKER),
                (SIGSTOP, BEFORE_WORK, WORKER),
            ]
        else:
            deck += [
                (CUT, "", WORKER),
                (CUT, "", chance.choice([WORKER, WORKER, ENQUEUER])),
                (CUT_IDLE, "", WORKER),
                (CUT_IDLE, "", WORKER),
                (RESTART, "", WORKER),
                (READ_ONLY, "", WORKER),
                (SIGKILL, chance.choice(["", AFTER_WORK]), WORKER),
            ]
        chance.shuffle(deck)
        yield from deck
