"""``/``: how many jobs stand how, which wait and run, and who runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from ..backends.overview import WaitingJob
from .dashboard import MOST_COUNTED, page
from .queue_rows import queue_rows
from .running_jobs import MOST_RUNNING, running_jobs
from .status_shapes import STATE_OF

if TYPE_CHECKING:
    from .visit import Visit


def show(visit: Visit) -> Response:
    """Answer with the overview."""
    overview = visit.overview
    workers = None if overview is None else overview.workers()
    running = running_jobs(visit)
    return page(
        visit,
        "overview.xhtml",
        "/",
        "Overview",
        counts=[
            (status, STATE_OF[status], count)
            for status, count in visit.queue.backend.counts(MOST_COUNTED + 1).items()
        ],
        queues=queue_rows(visit, workers),
        running=running[:MOST_RUNNING],
        are_more_running=len(running) > MOST_RUNNING,
        oldest=_oldest(visit),
        workers=workers,
        threads=visit.queue.options.threads,
    )


def _oldest(visit: Visit) -> WaitingJob | None:
    return None if visit.overview is None else visit.overview.oldest()
