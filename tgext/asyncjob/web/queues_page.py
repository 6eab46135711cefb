"""``/queues``: how many jobs wait in each queue, and who has paused it; pause and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from webob import Response

from ..job import storable
from .dashboard import lead_to, missing, page
from .queue_rows import queue_rows, served
from .texts import gettext

if TYPE_CHECKING:
    from .visit import Visit

#: The longest name of a queue, in characters. An earlier release took names that no task may have
#: today; their queues can be paused, too.
LONGEST_NAME = 64


def show(visit: Visit) -> Response:
    """Answer with the queues."""
    overview = visit.overview
    workers = None if overview is None else overview.workers()
    # Those in which nothing waits, too: they can be paused before something does.
    rows = queue_rows(visit, workers, served(workers))
    return page(
        visit, "queues.xhtml", "/queues", gettext("Queues"), queues=rows, is_shared=bool(overview)
    )


def pause(visit: Visit) -> Response:
    """Pause the queue ``of``, in the name of the user."""
    name = _name(visit)
    if name is None:
        return _unknown(visit)
    visit.queue.backend.pause(name, visit.rights.user, visit.act)
    return lead_to(visit, "/queues")


def resume(visit: Visit) -> Response:
    """End the pause of the queue ``of``."""
    name = _name(visit)
    if name is None:
        return _unknown(visit)
    visit.queue.backend.resume(name, visit.act)
    return lead_to(visit, "/queues")


def _name(visit: Visit) -> str | None:
    """Read the name, which the form has as ``Dashboard.quoted`` makes it; None: it is none."""
    name = unquote(visit.asked("of") or "")
    return name if 0 < len(name) <= LONGEST_NAME and storable(name) == name else None


def _unknown(visit: Visit) -> Response:
    return missing(
        visit, 400, "/queues", gettext("Not understood"), gettext("No queue can have this name.")
    )
