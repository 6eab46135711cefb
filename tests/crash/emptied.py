"""Empty the broker while many jobs wait, and count the messages until all have run.

    PYTHONPATH=tests python -m crash.emptied                          10,000 jobs and Redis
    PYTHONPATH=tests python -m crash.emptied --broker rabbitmq --jobs 1000

Exits with 0 if each job ran once, with at most twice as many messages as jobs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from celery_fleet import Fleet, fleet_of, until
from sqlqueues import PREFIX, Place, place_of, write_one

from .brokers import KINDS, Broker, broker_of

#: Processes that run jobs.
CHILDREN = 2

#: The longest that all jobs may take, in seconds.
PATIENCE_SECONDS = 600


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="crash.emptied", description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--broker", choices=KINDS, default="redis")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="asyncjob-emptied-"))
    kind = "redis" if wanted.broker == "redis" else "rabbitmq"
    with (
        place_of("postgresql", folder) as place,
        broker_of(wanted.broker) as broker,
        fleet_of(kind, place.url, folder, broker=broker.url_in) as fleet,
    ):
        return int(not _is_right(place, broker, fleet, wanted.jobs))


def _is_right(place: Place, broker: Broker, fleet: Fleet, jobs: int) -> bool:
    with fleet.queue() as queue:
        for number in range(jobs):  # a transaction each, as of requests
            queue.perform(write_one, f"{number}")
    emptied = fleet.length()
    broker.empty([f"{PREFIX}default"])
    begun = time.monotonic()
    worker = fleet.start("-c", str(CHILDREN))
    until(lambda: len(place.written()) >= jobs, "all effects", PATIENCE_SECONDS)
    seconds = time.monotonic() - begun
    received = worker.text().count("] received")
    times = Counter(text for text, _ in place.written())
    lost, doubled = jobs - len(times), sum(times.values()) - len(times)
    messages = emptied + received + fleet.length()
    sys.stdout.write(
        f"{fleet.kind}: {jobs} jobs waited, and the broker was emptied of {emptied} messages; all "
        f"ran within {seconds:.0f} s from the start of a worker, which received {received}: "
        f"{messages} messages in all, {messages / jobs:.2f} a job, lost {lost}, doubled {doubled}\n"
    )
    return not lost and not doubled and messages <= 2 * jobs


if __name__ == "__main__":
    sys.exit(main())
