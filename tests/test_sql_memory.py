"""A worker's memory does not grow with the jobs that it has run.

With LONG=1 in the environment after 50,000 jobs against after 5,000; else after 6,000 against
after 2,000.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transaction

from tgext.asyncjob import JobQueue, TaskResultStatus

FEW, MANY = (5_000, 50_000) if os.environ.get("LONG") else (2_000, 6_000)

#: How much more it may be.
GROWTH = 1.05

#: Jobs that are enqueued at once.
BATCH = 1_000

#: Answers each line with the pages that it has in memory.
WORKER = """
import gc, sys
from tgext.asyncjob import JobQueue

with JobQueue("sql", url=sys.argv[1], threads=4, secret="swordfish") as queue:
    queue.start_worker()
    for _line in sys.stdin:
        gc.collect()
        with open("/proc/self/statm") as file:
            print(file.read().split()[1], flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(600 if os.environ.get("LONG") else 120)
def test_a_worker_needs_no_more_memory_after_many_jobs_than_after_some(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    command = [sys.executable, "-c", WORKER, url]
    found, ran = [], 0
    with (
        JobQueue("sql", url=url, threads=0, secret="swordfish") as queue,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        for until in (FEW, MANY):
            while ran < until:
                enqueue(queue)
                ran += BATCH
                wait_for(queue, ran)
            worker.stdin.write("\n")
            worker.stdin.flush()
            found.append(int(worker.stdout.readline()))
        worker.stdin.close()

    after_few, after_many = found
    sys.stdout.write(f"after {FEW} jobs {after_few} pages, after {MANY} jobs {after_many}\n")
    assert worker.returncode == 0
    assert after_many <= after_few * GROWTH


def enqueue(queue: JobQueue) -> None:
    with queue.in_transaction():
        for _ in range(BATCH):
            queue.perform(len, "abc")
        transaction.commit()


def wait_for(queue: JobQueue, ended: int) -> None:
    while queue.backend.counts()[TaskResultStatus.SUCCESSFUL] < ended:
        time.sleep(0.02)  # who enqueues is told nothing of the end of jobs elsewhere
