"""A worker's memory does not grow with the jobs that it has run.

With LONG=1 in the environment after 50,000 jobs against after 5,000; else a tenth of that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FEW, MANY = (5_000, 50_000) if os.environ.get("LONG") else (2_000, 10_000)

#: How much more it may be. In a short run what is allocated once counts for more.
GROWTH = 1.05

WORKER = """
import gc, sys, time
from sqlalchemy import Engine, event
from tgext.asyncjob import JobQueue
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import DEFAULT_OPTIONS, Job

# SQLite keeps up to 2 MB of pages for each connection, and fills that slowly: bounded, and not
# what is looked for here.
@event.listens_for(Engine, "connect")
def connect(connection, _record):
    connection.execute("PRAGMA cache_size = -100")

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

few, many = int(sys.argv[2]), int(sys.argv[3])
with JobQueue("sql", url=sys.argv[1], threads=4, secret="swordfish") as queue:
    backend, ran = queue.backend, 0
    queue.start_worker()
    for until in (few, many):
        while ran < until:
            call = Call(len, ("abc",), None)
            jobs = [
                backend.prepare(Job(backend.new_uid(), call, DEFAULT_OPTIONS, None, None))
                for _ in range(1000)
            ]
            backend.enqueue(jobs)
            ran += len(jobs)
            while backend.waiting():
                queue.result(jobs[-1].uid)
                time.sleep(0.05)
            for job in jobs[-200:]:
                queue.result(job.uid).wait(30)
        print(resident(), flush=True)
"""


@pytest.mark.timeout(600 if os.environ.get("LONG") else 120)
def test_a_worker_needs_no_more_memory_after_many_jobs_than_after_some(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, f"sqlite:///{tmp_path}/jobs.db", str(FEW), str(MANY)]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    after_few, after_many = map(int, done.stdout.split())
    sys.stdout.write(f"after {FEW} jobs {after_few} pages, after {MANY} jobs {after_many}\n")
    assert after_many <= after_few * GROWTH
