"""``/``: how many jobs stand how, which wait and run, who runs them, and what has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from .dashboard import MOST_COUNTED, page
from .ended_jobs import spans, tasks
from .queue_rows import oldest_of, queue_rows
from .running_jobs import MOST_RUNNING, running_jobs
from .status_shapes import STATE_OF
from .texts import gettext

if TYPE_CHECKING:
    from .visit import Visit


def show(visit: Visit) -> Response:
    """Answer with the overview."""
    overview = visit.overview
    workers = None if overview is None else overview.workers()
    running = running_jobs(visit)
    queues = queue_rows(visit, workers)
    return page(
        visit,
        "overview.xhtml",
        "/",
        gettext("Overview"),
        counts=[
            (status, STATE_OF[status], count)
            for status, count in visit.queue.backend.counts(MOST_COUNTED + 1).items()
        ],
        queues=queues,
        running=running[:MOST_RUNNING],
        are_more_running=len(running) > MOST_RUNNING,
        oldest=oldest_of(queues),
        spans=spans(visit),
        tasks=tasks(visit),
        workers=workers,
        threads=visit.queue.options.threads,
    )
