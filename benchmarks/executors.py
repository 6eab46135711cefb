"""Measure looppool and its executor beside their peers, in one run.

    python benchmarks/executors.py            a minute
    python benchmarks/executors.py --quick    some seconds; says only that the harness works

No-op messages to two processes and back: looppool.Pool and LoopPoolExecutor, against Looppool
0.4.0 on Tornado 4.5.3 (= 1.0), the standard library's ProcessPoolExecutor, and a bare pair of
SimpleQueues. And no-op calls to two threads: a Slacker's chain against the plain submit (= 1.0).
Every round asks each contender once, in turn; each is asked in a process of its own, and only one
works at a time. Ratios are taken within a round. Exits with 0 whether an aim is met or missed,
unless something fails.
"""

import argparse
import contextlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from children import Child
from environment import looppool_python
from figures import Aim, Row, Spread, print_table

PROGRAM = Path(__file__).resolve().parent / "messengers.py"

BASELINE = "looppool"

#: The contenders by what messengers.py calls them, with their titles.
FIELD = {
    BASELINE: "Looppool 0.4.0, Tornado 4.5.3",
    "pool": "looppool.Pool",
    "executor": "LoopPoolExecutor",
    "executor, coroutines": "LoopPoolExecutor, coroutines",
    "processpool": "ProcessPoolExecutor",
    "bare": "a bare pair of SimpleQueues",
}

PLAIN = "threads"

#: What a chain costs: recorded, handed over, replayed, and a future that can be awaited.
CHAINS = {
    PLAIN: "ThreadPoolExecutor.submit",
    "chain": "a Slacker's chain on it, fetch()",
}

AIMS = {
    "pool": Aim(1.5, "at least 1.5", at_least=True),
    "executor": Aim(1.0, "at least 1.0", at_least=True),
    "executor, coroutines": Aim(1.0, "at least 1.0", at_least=True),
}

# measured on 2 cores before a line of ours existed
BEFORE = "before: ProcessPoolExecutor 0.31, bare pair 2.7"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    messages: int


WHOLE = Size(rounds=7, messages=20_000)
QUICK = Size(rounds=1, messages=1_000)


def exchange(pythons: dict[str, str], size: Size) -> dict[str, list[float]]:
    """Ask each contender once a round; for each its seconds in the order of the rounds.

    pythons: the interpreter of each.
    """
    with contextlib.ExitStack() as stack:
        children = {
            name: stack.enter_context(Child(python, PROGRAM)) for name, python in pythons.items()
        }
        return _ask(children, size)


def _ask(children: dict[str, Child], size: Size) -> dict[str, list[float]]:
    for name, child in children.items():  # a round that does not count
        child.ask(name, messages=size.messages // 10)
    rounds = [
        {name: child.ask(name, messages=size.messages) for name, child in children.items()}
        for _ in range(size.rounds)
    ]
    return {name: [seconds[name] for seconds in rounds] for name in children}


def print_field(
    field: dict[str, str], seconds: dict[str, list[float]], size: Size, what: str
) -> None:
    """Print a table of speeds against the first of *field*."""
    baseline = next(iter(field))
    rows = []
    for name, title in field.items():
        pairs = zip(seconds[baseline], seconds[name], strict=True)
        ratio = Spread.of([base / own for base, own in pairs])
        note = f"{size.messages / Spread.of(seconds[name]).median:9,.0f} a second  "
        if name in AIMS:
            note += AIMS[name].verdict(ratio.median)
        rows.append(Row(title, ratio, note))
    print_table(f"{size.messages:,} {what}: speed against {field[baseline]}", rows, 2)


def main() -> None:
    arguments = argparse.ArgumentParser(description="looppool beside its peers")
    arguments.add_argument("--quick", action="store_true", help="some seconds, to see it work")
    size = QUICK if arguments.parse_args().quick else WHOLE

    old = looppool_python()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {size}")
    seconds = exchange({name: old if name == BASELINE else sys.executable for name in FIELD}, size)
    print_field(FIELD, seconds, size, f"no-op messages to 2 processes and back ({BEFORE})")
    seconds = exchange(dict.fromkeys(CHAINS, sys.executable), size)
    print_field(CHAINS, seconds, size, "no-op calls to 2 threads and back")


if __name__ == "__main__":
    main()
