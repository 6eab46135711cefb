"""What is there at the end, compared with what each job must leave: exactly once, all of it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from tgext.asyncjob.backends.sql import states

from .field import COUNTERS, Field, counter_of
from .journal import BEGAN, RAN, Line
from .kinds import KINDS

#: What a worker logs of a transaction that the database has undone, and of a job that it has lost.
_UNDONE = re.compile(
    "job=(?P<uid>asyncjob_[0-9a-f]+) trying again what the database has undone: "
    r".*(?:Serialization|[Dd]eadlock|\(1213|\(1020|is locked)"
)
_LOST = re.compile("job=(?P<uid>asyncjob_[0-9a-f]+) .*(?:lease lost|lost its database)")


@dataclass
class Verdict:
    """lost, doubled: effects that are missing, or there too often. notes: a line for each."""

    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, what: str, expected: int, found: int) -> None:
        """Compare one number."""
        if found < expected:
            self.lost += expected - found
        elif found > expected:
            self.doubled += found - expected
        if found != expected:
            self.notes.append(f"{what}: expected {expected}, found {found}")


def judge(
    connection: Connection,
    field: Field,
    ordered: int,
    journal: list[Line],
    log: list[str],
    *,
    lossy: bool,
) -> Verdict:
    """Compare everything. ordered: how many orders the enqueuer was to place at least. lossy: see
    ``_judge_runs``."""
    verdict = Verdict()
    orders = connection.execute(select(field.orders)).all()
    jobs = {row.uid: row for row in connection.execute(select(field.jobs.jobs))}
    verdict.jobs = len(jobs)
    _judge_orders(verdict, orders, jobs, ordered)
    _judge_jobs(
        verdict, orders, jobs, Counter(line.subject for line in journal if line.word == RAN)
    )
    _judge_effects(verdict, orders, connection, field)
    _judge_runs(verdict, jobs, journal, log, lossy=lossy)
    return verdict


def _judge_runs(
    verdict: Verdict, jobs: dict[str, Row[Any]], journal: list[Line], log: list[str], *, lossy: bool
) -> None:
    """What a job does outside of the database it does once for each claim, and for each time that
    the database has undone its transaction. lossy: a server was restarted, which may have lost
    claims, so that their leases were given once more."""
    runs = Counter(line.subject for line in journal if line.word == BEGAN)
    undone = Counter(found["uid"] for line in log if (found := _UNDONE.search(line)))
    lost = Counter(found["uid"] for line in log if (found := _LOST.search(line)) and lossy)
    for uid, count in runs.items():
        claims = jobs[uid].lease if uid in jobs else 0
        extra = count - claims - undone[uid] - lost[uid]
        if extra > 0:
            verdict.doubled += extra
            verdict.notes.append(
                f"{uid}: ran {count} times, claims {claims}, undone by the database {undone[uid]}"
            )


def _judge_orders(
    verdict: Verdict, orders: list[Row[Any]], jobs: dict[str, Row[Any]], ordered: int
) -> None:
    placed = Counter(order.number for order in orders if order.kind != "follow_up")
    for number in range(max([ordered, *(number + 1 for number in placed)])):
        verdict.count(f"orders of number {number}", 1, placed[number])
    followed = Counter(order.number for order in orders if order.kind == "follow_up")
    for order in orders:
        if KINDS[order.kind].follow_up:
            verdict.count(f"jobs that follow up number {order.number}", 1, followed[order.number])
    with_order = {order.uid for order in orders}
    for uid in jobs:
        verdict.count(f"orders of the job {uid}", 1, int(uid in with_order))


def _judge_jobs(
    verdict: Verdict, orders: list[Row[Any]], jobs: dict[str, Row[Any]], ran: Counter[str]
) -> None:
    for order in orders:
        kind, job = KINDS[order.kind], jobs.get(order.uid)
        state = None if job is None else job.state
        if state != (states.FAILED if kind.fails else states.SUCCEEDED):
            verdict.lost += 1
            verdict.notes.append(f"{order.kind} {order.number}, {order.uid}: ended as {state}")
        if kind.untouching and not ran[order.uid]:
            verdict.lost += 1
            verdict.notes.append(f"{order.kind} {order.number}, {order.uid}: never ran")


def _judge_effects(
    verdict: Verdict, orders: list[Row[Any]], connection: Connection, field: Field
) -> None:
    ledger = field.ledger
    written = connection.execute(select(ledger.c.number, ledger.c.what)).all()
    found = Counter((number, what) for number, what in written)
    expected = Counter((o.number, what) for o in orders for what in KINDS[o.kind].leaves)
    for effect in found | expected:
        verdict.count(f"ledger lines {effect}", expected[effect], found[effect])
    counted = Counter(counter_of(*effect) for effect in expected.elements())
    values = dict(connection.execute(select(field.counters)).tuples().all())
    for number in range(COUNTERS):
        verdict.count(f"counter {number}", counted[number], values[number])
