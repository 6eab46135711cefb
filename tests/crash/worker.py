"""A worker process: serves until SIGTERM, then drains and ends. Started by ``crew``."""

from __future__ import annotations

import logging
import signal
from typing import Any

from sqlalchemy import Pool, event

from tgext.asyncjob import asyncjob_running_uid

from . import jobs  # noqa: F401 - so that the first of them does not wait for the import
from .journal import CONNECTED, READY, STARTED, note
from .mutants import MUTANTS
from .place import MARIADB, here
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
    if place.database == MARIADB:
        event.listen(Pool, "connect", note_connection)
    queue = place.queue(threads=place.threads)
    points.watch(queue.session, asyncjob_running_uid)
    points.listen()
    queue.start_worker()
    note(READY)
    signal.sigwait({signal.SIGTERM})
    queue.close()


def log_to_stderr() -> None:
    """Log all that happens; the coordinator has made it a file."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(threadName)s %(levelname)s %(message)s"
    )


def note_connection(connection: Any, _record: Any) -> None:
    """Let the coordinator know which connections are this process's."""
    note(CONNECTED, str(connection.thread_id()))


if __name__ == "__main__":
    main()
