"""``/workers``: the workers that are alive, and what each runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from .dashboard import page
from .running_jobs import MOST_RUNNING, running_jobs
from .texts import gettext

if TYPE_CHECKING:
    from .visit import Visit


def show(visit: Visit) -> Response:
    """Answer with the workers; on ``memory`` with what this process runs."""
    overview = visit.overview
    running = running_jobs(visit)
    workers = None if overview is None else overview.workers()
    of_each = [
        (worker, [each for each in running if each.worker_id == worker.worker_id])
        for worker in workers or ()
    ]
    return page(
        visit,
        "workers.xhtml",
        "/workers",
        gettext("Workers"),
        workers=of_each,
        is_shared=overview is not None,
        running=running[:MOST_RUNNING],
        threads=visit.queue.options.threads,
        are_more_running=len(running) > MOST_RUNNING,
    )
