"""Print where the time goes in the work of each row of memory.py and sql.py, by samples.

    python benchmarks/profiles.py            some two minutes
    python benchmarks/profiles.py --quick    says only that the harness works
    python benchmarks/profiles.py --only drain

py-spy looks at the threads of a contender's process while it does what sql.py or memory.py asks
for. A sample counts if its thread was at that work: it is in a measurement, or is a worker thread
that does not wait for jobs. The first column says what ran or was waited for, the second what of
this package had called it. Samples are taken of waiting threads too, so the shares are those of
the time on the clock. Exits with 0 unless something fails.
"""

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from children import Child
from samples import Sample, samples_in, show
from sqlfield import POSTGRESQL, SQLITE, Hall, ours
from sqlstands import Places

RATE = 250  #: samples a second


def sampled(pid: int, seconds: float, act: Callable[[], object]) -> list[Sample]:
    """Do *act* again and again while py-spy looks at the process *pid* for *seconds*."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw"
        spy = subprocess.Popen(
            [spy_program(), "record", "--pid", str(pid), "--duration", f"{seconds:.0f}", "--idle",
             "--rate", str(RATE), "--format", "raw", "--full-filenames", "--function",
             "--output", str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            while spy.poll() is None:
                act()
        finally:
            spy.terminate()
            said, _ = spy.communicate()
        if spy.returncode or not path.is_file():
            raise SystemExit(f"expected py-spy to look at process {pid}, and it said: {said}")
        return list(samples_in(path.read_text(encoding="utf-8")))


def spy_program() -> str:
    """Return the path of py-spy. Raises SystemExit if it is missing."""
    beside = Path(sys.executable).parent / "py-spy"
    found = str(beside) if beside.is_file() else shutil.which("py-spy")
    if found is None:
        raise SystemExit("py-spy is missing: pip install 'py-spy>=0.4', or make bench-profiles")
    return found


@dataclass(frozen=True)
class Work:
    """What is looked at: a measurement of sqlmeasures.py, and its size."""

    title: str
    measure: str
    jobs: int
    job: str = ""  #: of a drain

    def of(self, child: Child) -> Callable[[], object]:
        more = {"job": self.job} if self.job else {}
        return lambda: child.ask(self.measure, jobs=self.jobs, **more)


ENQUEUES = [
    Work("enqueue one at a time, each with its commit", "enqueue", 300),
    Work("enqueue in a request that commits a row too", "request", 300),
    Work("enqueue 1,000 in one transaction", "batch", 1_000),
]
DRAINS = [
    Work("no-op jobs", "drain", 5_000, "tick"),
    Work("jobs that insert a row each", "drain", 1_000, "write"),
]


def of_databases(hall: Hall, works: list[Work], threads: tuple[int, ...], seconds: float) -> None:
    for database, name in ((POSTGRESQL, "PostgreSQL"), (SQLITE, "SQLite")):
        for number in threads:
            one = ours(database, number)
            for work in works:
                with hall.opened([one]):
                    stand = hall.stand(one)
                    samples = sampled(stand.pid, seconds, work.of(stand))
                seen = Sample.is_of_worker if work.job else Sample.is_of_caller
                title = f"{name}, {one.name}. {work.title}"
                show(title, filter(seen, samples))


def of_latency(hall: Hall, seconds: float) -> None:
    one = ours(POSTGRESQL, 1)
    with hall.serving([one]) as pipes:
        producer, worker = hall.stand(one), hall.stand(one, "worker")

        def act() -> object:
            return producer.ask("latency", stamps=pipes[one], jobs=50, pause=0.01)

        title = "PostgreSQL, from the commit to the job's first line: the"
        samples = sampled(producer.pid, seconds, act)
        show(f"{title} process that enqueues", filter(Sample.is_of_caller, samples))
        samples = sampled(worker.pid, seconds, act)
        show(f"{title} worker", filter(Sample.is_of_worker, samples))


def of_memory(seconds: float) -> None:
    for title, measure, jobs in (
        ("enqueue and run, handles dropped", "dropped", 20_000),
        ("one job to an idle worker", "idle", 300),
    ):
        with Child(sys.executable) as child:

            def act(child: Child = child, measure: str = measure, jobs: int = jobs) -> object:
                return child.ask(measure, kind="ours", threads=4, jobs=jobs)

            samples = sampled(child.pid, seconds, act)
            title = f"Memory, 4 threads, {title}: the"
            show(f"{title} producer", filter(Sample.is_of_caller, samples))
            show(f"{title} workers", filter(Sample.is_of_worker, samples))


def main() -> None:
    parser = argparse.ArgumentParser(description="where the time of each row goes")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("enqueue", "drain", "latency", "memory"))
    parser.add_argument("--postgresql", default="postgresql://postgres@127.0.0.1/test")
    told = parser.parse_args()
    seconds = 1.0 if told.quick else 5.0
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        hall = Hall(stack.enter_context(Places(told.postgresql)), stack)
        parts: dict[str, Callable[[], None]] = {
            "enqueue": lambda: of_databases(hall, ENQUEUES, (1,), seconds),
            "drain": lambda: of_databases(hall, DRAINS, (1, 4), seconds),
            "latency": lambda: of_latency(hall, seconds),
            "memory": lambda: of_memory(seconds),
        }
        for name, part in parts.items():
            if told.only in (None, name):
                part()


if __name__ == "__main__":
    main()
