"""Measure the memory backend beside its peers, in one run.

    python benchmarks/memory.py            a minute or two
    python benchmarks/memory.py --quick    some seconds; says only that the harness works

Compared: the standard library's ThreadPoolExecutor, Huey on its memory storage, the released
tgext.asyncjob 0.3.1, and ours with session scope, progress registry and retention. Every
round asks each contender once, in turn (A B C D A B C D ...), so that what else the machine
does meets all of them; each has a process of its own, and only one works at a time. Ratios
are taken within a round. Exits with 0 whether an aim is met or missed, unless something fails.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from children import Child
from environment import released_python
from figures import Aim, Row, Spread, print_table

MICROSECONDS = 1e6

Answer = TypeVar("Answer")

# measured on 2 cores before a line of ours existed
RUN_BEFORE = "before: Huey 0.47, released 0.20"
MEMORY_BEFORE = "before: Huey 0.3 KiB, ThreadPoolExecutor 1.9 KiB"
REQUEST_BEFORE = "before: released, running, about 100"

RUN_AIM = Aim(0.7, "at least 0.7", at_least=True)
DROPPED_AIM = Aim(0.8, "at least 0.8", at_least=True)
IDLE_AIM = Aim(15.0, "at most 15")
MEMORY_AIM = Aim(300.0, "at most 300")
REQUEST_AIM = Aim(50.0, "at most 50")


@dataclass(frozen=True)
class Contestant:
    """A contender with so many threads, and the process that answers for it."""

    kind: str
    threads: int
    child: Child

    @property
    def name(self) -> str:
        title = {
            "threadpool": "ThreadPoolExecutor",
            "huey": "Huey, memory",
            "ours": "ours",
            "released": "released 0.3.1",
        }[self.kind]
        return f"{title}, {self.threads} thread{'s'[: self.threads != 1]}"


@dataclass(frozen=True)
class Size:
    """How much is measured: everything is bounded."""

    rounds: int
    jobs: int  #: enqueued in one round by each contender
    queued: int  #: for the memory of waiting jobs
    requests: int  #: with enqueues, and as many without, in one round


WHOLE = Size(rounds=11, jobs=20_000, queued=10_000, requests=300)
QUICK = Size(rounds=2, jobs=1_000, queued=1_000, requests=30)


def in_turn(
    rounds: int, askers: Sequence[Callable[[], Answer]], warm_up: bool = True
) -> list[list[Answer]]:
    """Ask each of *askers* once a round; for each its answers in the order of the rounds.

    warm_up: one round more, before the others, that does not count.
    """
    if warm_up:
        for ask in askers:
            ask()
    answers = [[ask() for ask in askers] for _ in range(rounds)]
    return [list(each) for each in zip(*answers, strict=True)]


def enqueue_and_run(
    field: Sequence[Contestant], baseline: Contestant, size: Size, *, kept: bool
) -> None:
    """Print how fast one producer's no-op jobs run, against *baseline* = 1.0.

    kept: whether the producer keeps what each enqueue gives, beside what imports have left; if not,
    it drops that at once, on a bare heap.
    """
    seconds = ask_all("run" if kept else "dropped", field, size)
    how, aim = ("kept", RUN_AIM) if kept else ("dropped, bare heap", DROPPED_AIM)
    rows = []
    for one in field:
        pairs = zip(seconds[baseline], seconds[one], strict=True)
        ratio = Spread.of([base / own for base, own in pairs])
        rate = size.jobs / Spread.of(seconds[one]).median
        note = f"{rate:9,.0f} jobs/s  "
        if one.kind == "ours" and one.threads == baseline.threads:
            note += aim.verdict(ratio.median)
        rows.append(Row(one.name, ratio, note))
    print_table(
        f"Enqueue and run {size.jobs:,} no-op jobs, one producer, handles {how}: speed against"
        f" {baseline.name} ({RUN_BEFORE})",
        rows,
        2,
    )


def idle_latency(field: Sequence[Contestant], size: Size) -> None:
    """Print how long a job takes to its first line, from the enqueue, on an idle worker."""
    answers = in_turn(size.rounds, [asker(one, "idle", size.requests) for one in field])
    rows = []
    for one, figures in zip(field, answers, strict=True):
        spread = Spread.of(figures)
        rows.append(Row(one.name, spread, IDLE_AIM.verdict(spread.median) * (one.kind == "ours")))
    print_table("One job to an idle worker: p50, microseconds", rows, 1)


def enqueue_alone(field: Sequence[Contestant], baseline: Contestant, size: Size) -> None:
    """Print what one enqueue takes with all workers held."""
    seconds = ask_all("enqueue", field, size)
    rows = []
    for one in field:
        each = Spread.of([s / size.jobs * MICROSECONDS for s in seconds[one]])
        pairs = zip(seconds[baseline], seconds[one], strict=True)
        ratio = Spread.of([base / own for base, own in pairs])
        rows.append(Row(one.name, each, f"{ratio.median:5.2f} of {baseline.name}"))
    print_table("Enqueue alone, workers held: microseconds a job", rows, 1)


def queued_memory(field: Sequence[Contestant], size: Size) -> None:
    """Print what a waiting job takes. Deterministic, so two rounds are enough."""
    answers = in_turn(2, [asker(one, "memory", size.queued) for one in field], warm_up=False)
    rows = []
    for one, figures in zip(field, answers, strict=True):
        spread = Spread.of(figures)
        note = f"{spread.median / 1024:5.2f} KiB  "
        if one.kind == "ours":
            note += MEMORY_AIM.verdict(spread.median)
        rows.append(Row(one.name, spread, note))
    print_table(
        f"Memory of {size.queued:,} waiting jobs: bytes a job (tracemalloc; {MEMORY_BEFORE})",
        rows,
        0,
    )


def request_overhead(ours: Child, released: Child, size: Size) -> None:
    """Print what an enqueue adds to a TurboGears2 request, one thread each."""
    cases = [
        (state, jobs, name, child)
        for state in ("held", "running")
        for jobs in (1, 10)
        for name, child in (("ours", ours), ("released 0.3.1", released))
    ]

    def ask(state: str, jobs: int, child: Child) -> Callable[[], float]:
        return lambda: child.ask(f"request {state}", jobs=jobs, requests=size.requests)

    answers = in_turn(size.rounds, [ask(state, jobs, child) for state, jobs, _, child in cases])
    spreads = [Spread.of([s * MICROSECONDS for s in figures]) for figures in answers]
    rows = []
    for (state, jobs, name, _), spread, after in zip(
        cases, spreads, [*spreads[1:], spreads[-1]], strict=True
    ):
        note = ""
        if name == "ours":  # the row after ours is the released one's in the same case
            aim = REQUEST_AIM if state == "held" else Aim(after.median, "less than the released")
            note = aim.verdict(spread.median)
        rows.append(Row(f"{name}, {state}, {jobs} a request", spread, note))
    print_table(
        f"What an enqueue adds to a request: microseconds an enqueue ({REQUEST_BEFORE})", rows, 1
    )


def asker(one: Contestant, measure: str, jobs: int) -> Callable[[], float]:
    return lambda: one.child.ask(measure, kind=one.kind, threads=one.threads, jobs=jobs)


def ask_all(measure: str, field: Sequence[Contestant], size: Size) -> dict[Contestant, list[float]]:
    """Ask the whole field in turn; for each contestant one figure a round."""
    answers = in_turn(size.rounds, [asker(one, measure, size.jobs) for one in field])
    return dict(zip(field, answers, strict=True))


def main() -> None:
    arguments = argparse.ArgumentParser(description="the memory backend beside its peers")
    arguments.add_argument("--quick", action="store_true", help="some seconds, to see it work")
    size = QUICK if arguments.parse_args().quick else WHOLE

    old = released_python()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {size}")
    with (
        Child(sys.executable) as pool,
        Child(sys.executable) as huey,
        Child(sys.executable) as ours,
        Child(old) as released,
        Child(sys.executable) as our_application,
    ):
        baseline = Contestant("threadpool", 4, pool)
        field = [
            baseline,
            Contestant("threadpool", 1, pool),
            Contestant("ours", 4, ours),
            Contestant("ours", 1, ours),
            Contestant("huey", 4, huey),
            Contestant("huey", 1, huey),
            Contestant("released", 1, released),
        ]
        enqueue_and_run(field, baseline, size, kept=True)
        enqueue_and_run(field, baseline, size, kept=False)
        # Huey looks again after a while, and the released one has no other way
        idle_latency([one for one in field if one.kind in ("threadpool", "ours")], size)
        enqueue_alone(field, baseline, size)
        queued_memory([one for one in field if one.threads == 4 or one.kind == "released"], size)
        request_overhead(our_application, released, size)


if __name__ == "__main__":
    main()
