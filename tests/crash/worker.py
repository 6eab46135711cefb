"""A worker process: serves until SIGTERM, then drains and ends. Started by ``processes``."""

from __future__ import annotations

import logging
import signal
import time

from tgext.asyncjob import asyncjob_running_uid

from . import jobs  # noqa: F401 - so that the first of them does not wait for the import
from .journal import READY, STARTED, note
from .mutants import MUTANTS
from .place import here
from .points import points


def main() -> None:
    """Serve."""
    # Blocked before any thread begins, so that none but this one is told.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    note(STARTED)
    log_to_stderr()
    place = here()
    if place.mutant:
        MUTANTS[place.mutant]()
    queue = place.queue(threads=place.threads, queues=place.queues)
    points.watch(queue.session, asyncjob_running_uid)
    points.listen()
    queue.start_worker()
    note(READY)
    signal.sigwait({signal.SIGTERM})
    queue.close()


class _ByJournal(logging.Formatter):
    """Dates a line by the journals' clock."""

    def formatTime(self, _record: logging.LogRecord, _format: str | None = None) -> str:
        return f"{time.monotonic():.6f}"


def log_to_stderr() -> None:
    """Log all that happens; the coordinator has made it a file."""
    handler = logging.StreamHandler()
    handler.setFormatter(_ByJournal("%(asctime)s %(threadName)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    main()
