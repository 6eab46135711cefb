"""The jobs of latecomer.py: a worker imports them by the name of this module."""

import threading
import time

from tgext.asyncjob import shared, task

#: Seconds of a job, and those in which one must begin.
JOB_SECONDS, PATIENCE_SECONDS = 0.02, 60.0


class Starts:
    """Which jobs have begun."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.forget()

    def forget(self) -> None:
        self.names: list[str] = []
        self.at: dict[str, float] = {}

    def note(self, name: str) -> None:
        with self._changed:
            self.names.append(name)
            self.at.setdefault(name, time.perf_counter())
            self._changed.notify_all()

    def wait_for(self, name: str, number: int = 1) -> None:
        """Wait until so many more of a name have begun."""
        with self._changed:
            until = self.names.count(name) + number
            if not self._changed.wait_for(
                lambda: self.names.count(name) >= until or (number == 1 and name in self.at),
                PATIENCE_SECONDS,
            ):
                raise RuntimeError(f"no job of {name!r} began within {PATIENCE_SECONDS} s")


STARTS = Starts()


@task(limit=1, limit_key=lambda name: name)
def limited(name: str) -> None:
    STARTS.note(name)
    time.sleep(JOB_SECONDS)


@task(share_key=shared("owner", lambda name: name))
def taking_turns(name: str) -> None:
    STARTS.note(name)
    time.sleep(JOB_SECONDS)


def note_begin(path: str) -> None:
    """Append to a file when this job has begun, by the clock that all processes share."""
    with open(path, "a") as file:
        file.write(f"{time.monotonic()}\n")
