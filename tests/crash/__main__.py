"""Soak one database or all, and print a line for each.

    PYTHONPATH=tests python -m crash                     a few hundred jobs, 14 kills each
    PYTHONPATH=tests python -m crash --long              20,000 jobs, 200 kills each
    PYTHONPATH=tests python -m crash --answers           5,000 jobs, every 20th commit unanswered
    PYTHONPATH=tests python -m crash --mutant fence      the library broken: it must be noticed
    PYTHONPATH=tests python -m crash --engine celery --broker redis      or rabbitmq, or
                                                         rabbitmq-quorum: workers on Celery, on
                                                         PostgreSQL (or one --db)
    PYTHONPATH=tests python -m crash --older FOLDER      a checkout of an older version is upgraded,
                                                         process by process, under the same kills

Exits with 0 if nothing is lost, doubled or late; with a mutant, if something is lost or doubled, or
a live worker given up.
Where it is not as it should be, the folder with the processes' logs and journals is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from .brokers import KINDS as BROKERS
from .brokers import broker_of
from .mutants import MUTANTS
from .place import KINDS, POSTGRESQL, Place
from .rescue import Rescues, measure
from .schedule import schedule
from .servers import database_of
from .soak import Soak


@dataclass(frozen=True)
class Size:
    """How much one run is. workers: at a time. seconds: in which jobs and blows come.
    loses_every: the answers of which commits go lost; 0: none."""

    jobs: int
    blows: int
    workers: int
    seconds: float
    lease: float
    loses_every: int


SHORT = Size(jobs=120, blows=14, workers=3, seconds=12.0, lease=1.5, loses_every=15)
LONG = Size(jobs=20_000, blows=200, workers=4, seconds=400.0, lease=2.0, loses_every=60)
#: No kills: what a lost answer alone does.
ANSWERS = Size(jobs=5_000, blows=0, workers=3, seconds=60.0, lease=2.0, loses_every=20)


def main() -> int:
    """Return the exit status."""
    # A shell lets programs in the background ignore these two, and they would pass that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    wanted = _arguments()
    size = ANSWERS if wanted.answers else LONG if wanted.long else SHORT
    if wanted.engine == "celery":
        database = wanted.db[0] if len(wanted.db) == 1 else POSTGRESQL
        return int(not _soak_fleet(database, size, wanted))
    right = [_soak(database, size, wanted) for database in wanted.db]
    if wanted.mutant:
        _say(f"the mutant {wanted.mutant} was {'noticed' if not all(right) else 'NOT noticed'}")
        return int(any(right))
    if wanted.rescues:
        with ThreadPoolExecutor(len(wanted.db)) as threads:
            for rescues in threads.map(lambda each: _rescue(each, size, wanted), wanted.db):
                late = "" if rescues.is_right else ", LATE"
                _say(f"{rescues}{late}")
                right.append(rescues.is_right)
    return int(not all(right))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crash", description=__doc__.partition("\n")[0])
    parser.add_argument("--db", type=_databases, default=list(KINDS), help="names, with commas")
    parser.add_argument("--long", action="store_true", help="20,000 jobs and 200 kills each")
    parser.add_argument(
        "--answers", action="store_true", help="5,000 jobs, every 20th COMMIT's answer lost"
    )
    parser.add_argument("--engine", choices=["own", "celery"], default="own")
    parser.add_argument("--broker", choices=BROKERS, default="redis")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="")
    parser.add_argument(
        "--older", default="", help="a checkout of an older version: the first processes import it"
    )
    parser.add_argument("--seed", type=int, default=1, help="the same one, the same kills")
    parser.add_argument("--rescues", type=int, default=20, help="kills of a lone job's worker")
    parser.add_argument("--keep", action="store_true", help="keep logs and journals in any case")
    return parser.parse_args()


def _databases(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in KINDS:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(KINDS)}, got {name!r}")
    return names


def _place(database: str, size: Size, wanted: argparse.Namespace, jobs: int) -> Place:
    folder = tempfile.mkdtemp(prefix=f"crash-{database}-")
    return Place(
        database=database,
        prefix=f"c{folder[-8:].lower()}_",
        folder=folder,
        seed=wanted.seed,
        jobs=jobs,
        seconds=size.seconds,
        lease=size.lease,
        mutant=wanted.mutant,
        older=wanted.older and os.path.abspath(wanted.older),
    )


def _soak(database: str, size: Size, wanted: argparse.Namespace) -> bool:
    """Run one, and return whether all of it is right."""
    blows = schedule(wanted.seed, database, size.blows, size.seconds)
    with database_of(database, size.loses_every) as made:
        place = made.found_from(_place(database, size, wanted, size.jobs))
        report = Soak(place, made, blows, size.workers).run()
    _say(str(report))
    is_wrong = report.verdict.lost + report.verdict.doubled + report.given_up > 0
    _clear(place, keep=wanted.keep or (not report.is_right and not wanted.mutant))
    return not is_wrong if wanted.mutant else report.is_right


def _soak_fleet(database: str, size: Size, wanted: argparse.Namespace) -> bool:
    """Run one with workers on Celery, and return whether all of it is right."""
    from .fleet import FleetSoak, fleet_schedule  # Celery need not be there otherwise

    blows = fleet_schedule(wanted.seed, size.blows, size.seconds)
    with database_of(database, 0) as made, broker_of(wanted.broker) as broker:
        place = replace(
            made.found_from(_place(database, size, wanted, size.jobs)),
            broker_in=broker.url_in, broker_out=broker.url_out,
        )  # fmt: skip
        report = FleetSoak(place, broker, blows).run()
    _say(str(report))
    _clear(place, keep=wanted.keep or not report.is_right)
    return report.is_right


def _rescue(database: str, size: Size, wanted: argparse.Namespace) -> Rescues:
    with database_of(database, 0) as made:
        place = made.found_from(_place(database, size, wanted, 0))
        rescues = measure(place, wanted.rescues)
    _clear(place, keep=wanted.keep or not rescues.is_right)
    return rescues


def _clear(place: Place, *, keep: bool) -> None:
    if keep:
        _say(f"    logs and journals are kept in {place.folder}")
    else:
        shutil.rmtree(place.folder)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
