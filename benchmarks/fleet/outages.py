"""What a broker's outage costs: an enqueue meanwhile, and a job after its return."""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fleetjobs import PREFIX, URL, nothing

from figures import Aim
from own_brokers import Deaf, OwnRedis, own_redis
from tgext.asyncjob import JobQueue

#: Milliseconds by which 99 of 100 enqueues may take longer than with own workers.
LATENCY_AIM = Aim(5.0, "at most 5 ms more than own workers")

#: What the others are compared with.
OWN = "own workers"

#: Seconds in which a job runs once its broker is back.
RETURN_AIM = Aim(5.0, "at most 5 s")

#: Seconds that a broker is away.
AWAY_SECONDS = 2.0

#: The longest that a worker may take to come up, or a job to end, in seconds.
PATIENCE_SECONDS = 120.0


@contextmanager
def brokers(working: str) -> Iterator[dict[str, str | None]]:
    """Give the URL of a broker in each state; None: own workers."""
    with ExitStack() as stack:
        stopped, full = (stack.enter_context(own_redis()) for _ in range(2))
        deaf = Deaf()
        stack.callback(deaf.close)
        stopped.signal(signal.SIGSTOP)
        full.kill()
        full.start("--maxmemory", "1", "--maxmemory-policy", "noeviction")
        yield {
            OWN: None,
            f"{OWN}, once more": None,  # how much the machine itself makes
            "Celery": working,
            "Celery, broker refuses": "redis://127.0.0.1:1/0",
            "Celery, broker is stopped (SIGSTOP)": stopped.url,
            "Celery, broker never answers": f"redis://127.0.0.1:{deaf.port}/0",
            "Celery, RabbitMQ never answers": f"amqp://127.0.0.1:{deaf.port}//",
            "Celery, broker is full": full.url,
        }


def print_latencies(working: str, jobs: int, rounds: int) -> None:
    """Print what an enqueue takes in each state, by turns; the difference is the median of those of
    the rounds. working: the URL of a broker. jobs: of each state in a round."""
    with brokers(working) as urls, ExitStack() as stack:
        queues = {name: stack.enter_context(_queue(url)) for name, url in urls.items()}
        p50s: dict[str, list[float]] = {name: [] for name in queues}
        p99s: dict[str, list[float]] = {name: [] for name in queues}
        for _ in range(rounds):
            for name, values in _round(queues, jobs).items():
                p50s[name].append(values[jobs // 2])
                p99s[name].append(values[int(jobs * 0.99) - 1])
    print(f"\nmilliseconds of an enqueue, {rounds} times {jobs}{'':12}p50       p99  p99 - own")
    for name, p99 in p99s.items():
        over = statistics.median(own - base for own, base in zip(p99, p99s[OWN], strict=True))
        note = "" if name == OWN else f"{over:9.2f}  {LATENCY_AIM.verdict(over)}"
        median = statistics.median(p50s[name]), statistics.median(p99)
        print(f"  {name:36}{median[0]:8.2f}  {median[1]:8.2f}  {note}".rstrip())


def _round(queues: dict[str, JobQueue], jobs: int) -> dict[str, list[float]]:
    """Return the milliseconds of each enqueue, in order of length."""
    found: dict[str, list[float]] = {name: [] for name in queues}
    for number in range(jobs):
        for name, queue in queues.items():
            begun = time.perf_counter()
            queue.perform(nothing, number)
            found[name].append((time.perf_counter() - begun) * 1e3)
    return {name: sorted(values) for name, values in found.items()}


def _queue(broker: str | None) -> JobQueue:
    celery: dict[str, Any] = {} if broker is None else {"engine": "celery", "broker_url": broker}
    return JobQueue("sql", url=URL, table_prefix=PREFIX, threads=0, **celery)


def print_returns(rounds: int) -> None:
    """Print how soon a job that was enqueued meanwhile runs after the broker's return."""
    ways: dict[str, tuple[Callable[[OwnRedis], object], Callable[[OwnRedis], object]]] = {
        "killed, and started again": (OwnRedis.kill, OwnRedis.start),
        "stopped (SIGSTOP, SIGCONT)": (
            lambda redis: redis.signal(signal.SIGSTOP),
            lambda redis: redis.signal(signal.SIGCONT),
        ),
    }
    print(f"\nseconds from the broker's return to the end of a job, {rounds} times, away for "
          f"{AWAY_SECONDS:g} s")  # fmt: skip
    with own_redis() as redis, _worker(redis.url), _queue(redis.url) as queue:
        queue.result(queue.perform(nothing, 0)).wait(PATIENCE_SECONDS)
        for name, (go, come) in ways.items():
            found = []
            for number in range(rounds):
                go(redis)
                uid = queue.perform(nothing, number)
                time.sleep(AWAY_SECONDS)
                begun = time.monotonic()
                come(redis)
                queue.result(uid).wait(PATIENCE_SECONDS)
                found.append(time.monotonic() - begun)
            verdict = RETURN_AIM.verdict(max(found))
            print(f"  {name:36}median {statistics.median(found):5.2f}  maximum {max(found):5.2f}  "
                  f"{verdict}")  # fmt: skip


@contextmanager
def _worker(broker: str) -> Iterator[None]:
    """Run a Celery worker with one child."""
    command = [sys.executable, "-m", "tgext.asyncjob", "celery", "--app", "fleetjobs:fleet", "--",
               "worker", "-c", "1", "--without-mingle", "--without-gossip"]  # fmt: skip
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "FLEET_BROKER": broker},
    )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
