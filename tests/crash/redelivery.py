"""Run jobs that last longer than Redis keeps a message back, and count what comes again.

    PYTHONPATH=tests python -m crash.redelivery             jobs of 30 s, messages again after 5 s

Exits with 0 if messages came again, and each job ran once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

from celery_fleet import fleet_of
from own_brokers import own_redis
from sqlqueues import place_of
from tgext.asyncjob import JobQueue
from worker_contract import write_slowly

#: Jobs, and the processes that run them: some have nothing to do but to take what comes again.
JOBS, CHILDREN = 4, 6


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="crash.redelivery", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="that each job lasts")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="asyncjob-redelivery-"))
    with own_redis() as redis, place_of("postgresql", folder) as place:
        os.environ["TEST_BROKER"] = redis.url  # of the app, in each process
        from celery_own_app import VISIBILITY_SECONDS

        with fleet_of("redis", place.url, folder, broker=redis.url) as fleet:
            fleet.options.update(broker_url="", celery_app="celery_own_app:app")
            worker = fleet.start("-c", str(CHILDREN))
            with fleet.queue(broker_url=None) as queue:
                _run(queue, wanted.seconds)
            text, times = worker.text(), Counter(name for name, _ in place.written())
    received = Counter(re.findall(r"asyncjob\.run\[(\S+)\] received", text))
    again = sum(received.values()) - len(received)
    runs = text.count(" attempt=")
    lost, doubled = JOBS - len(times), sum(times.values()) - len(times)
    sys.stdout.write(
        f"{JOBS} jobs of {wanted.seconds:g} s, messages again after {VISIBILITY_SECONDS} s: "
        f"{again} messages came again, {runs} runs, lost {lost}, doubled {doubled}\n"
    )
    return int(not (again and runs == JOBS and not lost and not doubled))


def _run(queue: JobQueue, seconds: float) -> None:
    uids = [queue.perform(write_slowly, f"{number}", seconds) for number in range(JOBS)]
    for uid in uids:
        queue.result(uid).wait(10 * seconds)


if __name__ == "__main__":
    sys.exit(main())
