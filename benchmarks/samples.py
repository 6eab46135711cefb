"""What py-spy has seen of a process: which samples were of the work, and where that was.

Standard library only: its tests load it alone.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SHOWN = 9  #: lines of a profile, at most
LEAST_PERCENT = 2

PACKAGE = "tgext/asyncjob/"
#: functions that wait, by the end of their file: what their time is called
WAITS = {
    ("psycopg/connection.py", "wait"): "waits for PostgreSQL",
    ("sqlalchemy/engine/default.py", "do_execute"): "in SQLite",
    ("sqlalchemy/engine/default.py", "do_commit"): "in SQLite",
    ("sqlalchemy/engine/default.py", "do_rollback"): "in SQLite",
    ("threading.py", "wait"): "waits for another thread",
}

#: where the thread that is measured is
MEASURES = {"measures.py", "sqlmeasures.py"}


class Frame(NamedTuple):
    """A call on the stack of a sample."""

    function: str
    path: str

    @property
    def part(self) -> str:
        """What it belongs to: a package, or what it waits for."""
        for (end, function), name in WAITS.items():
            if self.path.endswith(end) and self.function.rpartition(".")[2] == function:
                return name
        if PACKAGE in self.path:
            folders = self.path.partition(PACKAGE)[2].split("/")[:-1]
            return " ".join(["tgext.asyncjob", "/".join(folders[:2])]).rstrip()
        _, is_installed, below = self.path.rpartition("site-packages/")
        return below.split("/")[0] if is_installed else "Python's own modules"

    @property
    def name(self) -> str:
        """How it is shown, if it is of this package."""
        return f"{self.path.partition(PACKAGE)[2]} {self.function}"


class Sample(NamedTuple):
    """Stacks that were seen alike, and how often."""

    stack: list[Frame]
    times: int

    def is_waiting(self) -> bool:
        """Whether it waits for jobs, or for one's end."""
        return any(
            PACKAGE in frame.path and frame.function.rpartition(".")[2] == "wait"
            for frame in self.stack
        )

    def is_of_worker(self) -> bool:
        """Whether it is of a worker thread that has work."""
        return not self.is_waiting() and any(
            frame.function == "WorkerThread.run" for frame in self.stack
        )

    def is_of_caller(self) -> bool:
        """Whether it is of the thread that is measured, and inside this package or its caller."""
        paths = {Path(frame.path).name for frame in self.stack if PACKAGE not in frame.path}
        is_inside = "sqlours.py" in paths or any(PACKAGE in frame.path for frame in self.stack)
        return is_inside and bool(paths & MEASURES) and not self.is_waiting()


def samples_in(text: str) -> Iterator[Sample]:
    """Read what py-spy has written as "raw": a stack a line, and its number."""
    for line in text.splitlines():
        stack, _, times = line.rpartition(" ")
        frames = re.findall(r"(?:^|;)([^;]*?) \(([^;()]*?)(?::\d+)?\)", stack)
        if frames:
            yield Sample([Frame(*frame) for frame in frames], int(times))


def show(title: str, samples: Iterable[Sample]) -> None:
    """Print one profile."""
    work = list(samples)
    total = sum(sample.times for sample in work)
    print(f"\n{title}: {total:,} samples")
    if not total:
        return
    parts: Counter[str] = Counter()
    callers: Counter[str] = Counter()
    for stack, times in work:
        parts[stack[-1].part] += times
        own = [frame for frame in stack if PACKAGE in frame.path]
        callers[own[-1].name if own else "(the application)"] += times
    lines = [
        [
            f"{100 * times / total:3.0f} % {name}"
            for name, times in each.most_common(SHOWN)
            if 100 * times / total >= LEAST_PERCENT
        ]
        for each in (parts, callers)
    ]
    for number in range(max(map(len, lines))):
        left, right = (column[number] if number < len(column) else "" for column in lines)
        print(f"  {left:44}{right}".rstrip())
