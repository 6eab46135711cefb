"""Compare the hot path of this version with that of older ones, in one run.

    git worktree add ../before v1
    python benchmarks/versions.py --older ../before         some minutes for each database
    python benchmarks/versions.py --older ../before --older ../long_before --db sqlite
    python benchmarks/versions.py --quick --older ../before    says only that the harness works

An older version is a folder with a checkout or an archive of this repository; its requirements must
be those of this environment. Each version runs in a process of its own and has tables of its own.
Every round asks each version once, in turn (A B A B ...); ratios are taken within a round. Commits
are durable. Exits with 0 whether an aim is met or missed.
"""

import argparse
import contextlib
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from children import Child
from figures import Aim, Row, Spread, print_table
from hotpath import AT_ONCE
from memory import in_turn

PROGRAM = Path(__file__).resolve().parent / "versionchild.py"
PRESENT = PROGRAM.parent.parent
MICROSECONDS = 1_000_000
WHAT = ("time", "CPU of the process", "CPU with the server's")
AIM = Aim(1.03, "at most 1.03")
KINDS = ("sqlite", "postgresql", "mariadb")


@dataclass(frozen=True)
class Size:
    """How much is measured: everything is bounded."""

    rounds: int
    enqueued: int  #: one at a time, in one round by each
    batch: int  #: in one transaction
    claimed: int  #: a multiple of AT_ONCE
    drained: int  #: no-op jobs in one round
    rows: int  #: jobs that insert a row; many, since a worker's first round runs beside them


WHOLE = Size(rounds=11, enqueued=200, batch=1_000, claimed=1_000, drained=2_000, rows=1_000)
QUICK = Size(rounds=1, enqueued=20, batch=100, claimed=200, drained=300, rows=30)


class Version(Child):
    """A process that has imported the version in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(sys.executable, PROGRAM, {**os.environ, "PYTHONPATH": str(folder)})
        self._folder, self.name = folder, folder.name

    def measure(self, measure: str, **parameters: Any) -> Any:
        """Give the answer of one measurement. Raises ChildFailed when there is none."""
        return self._answer(measure, parameters)

    @contextlib.contextmanager
    def opened(self, kind: str) -> Any:
        self.measure("open", kind=kind, folder=str(self._folder))
        try:
            yield self
        finally:
            self.measure("close")


Seconds = Sequence[float]  #: WHAT


def compare(title: str, names: Sequence[str], rounds: Sequence[Sequence[Seconds]]) -> None:
    """Print the time of the first version in relation to that of each other one.

    rounds: for each version what a job took in each round.
    """
    rows = []
    for number, what in enumerate(WHAT):
        of_each = [[seconds[number] for seconds in own] for own in rounds]
        own = statistics.median(of_each[0]) * MICROSECONDS
        for name, theirs in zip(names[1:], of_each[1:], strict=True):
            ratio = Spread.of([a / b for a, b in zip(of_each[0], theirs, strict=True)])
            before = statistics.median(theirs) * MICROSECONDS
            note = f"{before:8,.1f} -> {own:8,.1f} us  {AIM.verdict(ratio.median)}"
            rows.append(Row(f"{what}, {name}", ratio, note))
    print_table(title, rows, 2)


def measure(kind: str, versions: Sequence[Version], size: Size) -> None:
    """Print the tables of one database."""
    names = [version.name for version in versions]

    def rounds(measure: str, jobs: int, **parameters: Any) -> list[list[Any]]:
        asked = {"measure": measure, "jobs": jobs, **parameters}
        return in_turn(size.rounds, [partial(version.measure, **asked) for version in versions])

    def show(title: str, jobs: int, answers: Sequence[Sequence[Seconds]]) -> None:
        each = [[[seconds / jobs for seconds in answer] for answer in own] for own in answers]
        compare(f"{kind}. {title}: of this version in relation to older ones", names, each)

    with contextlib.ExitStack() as stack:
        for version in versions:
            stack.enter_context(version.opened(kind))
        show("Enqueue of one", size.enqueued, rounds("enqueue", size.enqueued))
        title = f"Enqueue of {size.batch:,} in one transaction"
        show(title, size.batch, rounds("batch", size.batch))
        both = rounds("claims", size.claimed)
        for number, what in enumerate(("Claim", "Completion")):
            answers = [[answer[number] for answer in own] for own in both]
            show(f"{what} of {AT_ONCE}", size.claimed, answers)
        show("Drain of no-op jobs", size.drained, rounds("drain", size.drained, rows=False))
        title = "Drain of jobs that insert a row each"
        show(title, size.rows, rounds("drain", size.rows, rows=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--db", choices=KINDS, action="append", help="default: all three")
    parser.add_argument("--older", type=Path, action="append", required=True, metavar="FOLDER")
    wanted = parser.parse_args()
    size = QUICK if wanted.quick else WHOLE
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {size}")
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    print(f"load of the last 1, 5 and 15 minutes, which a quiet machine has near 0: {load}")
    folders = [PRESENT, *(folder.resolve() for folder in wanted.older)]
    with contextlib.ExitStack() as stack:
        versions = [stack.enter_context(Version(folder)) for folder in folders]
        for kind in wanted.db or KINDS:
            measure(kind, versions, size)


if __name__ == "__main__":
    main()
