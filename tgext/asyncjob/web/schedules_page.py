"""``/schedules`` and ``/schedule``: the schedules, their ticks, and what can be done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from webob import Response

from ..errors import AsyncJobError, ConfigError
from ..job import storable
from ..schedule import LONGEST_NAME, Schedule, why_not
from .dashboard import lead_to, missing, page
from .refusals import refusal
from .texts import gettext, marked, said

if TYPE_CHECKING:
    from .visit import Visit

#: The most schedules of the list, and ticks of a schedule.
MOST_SHOWN, TICKS = 500, 50

#: The next ticks of a schedule that are shown.
UPCOMING = 5

#: How ticks ended, as they name it.
STATUSES = (marked("enqueued"), marked("skipped"))


def show(visit: Visit) -> Response:
    """Answer with all schedules."""
    found = visit.queue.schedules()
    return page(
        visit,
        "schedules.xhtml",
        "/schedules",
        gettext("Schedules"),
        schedules=found[:MOST_SHOWN],
        left=len(found[MOST_SHOWN:]),
        is_shared=visit.overview is not None,
    )


def show_one(visit: Visit) -> Response:
    """Answer with the schedule ``of``."""
    found = _found(visit)
    if found is None:
        return _unknown(visit)
    return page(
        visit,
        "schedule.xhtml",
        "/schedules",
        gettext("Schedule"),
        schedule=found,
        reasons=[said(reason) for reason in why_not(found)],
        upcoming=found.upcoming(UPCOMING),
        ticks=[(each, said(each.reason or "-")) for each in found.ticks(TICKS)],
    )


def pause(visit: Visit) -> Response:
    """Pause the schedule ``of``, in the name of the user."""
    found = _found(visit)
    if found is None:
        return _unknown(visit)
    found.pause()
    return _back(visit, found)


def resume(visit: Visit) -> Response:
    """End the pause of the schedule ``of``."""
    found = _found(visit)
    if found is None:
        return _unknown(visit)
    found.resume()
    return _back(visit, found)


def run_now(visit: Visit) -> Response:
    """Enqueue a job of the schedule ``of``."""
    found = _found(visit)
    if found is None:
        return _unknown(visit)
    try:
        found.run_now()
    except AsyncJobError as error:  # its call cannot be read in this process
        return missing(visit, 409, "/schedules", gettext("Not enqueued"), refusal(error))
    return _back(visit, found)


def delete(visit: Visit) -> Response:
    """Delete the schedule ``of``."""
    found = _found(visit)
    if found is None:
        return _unknown(visit)
    try:
        found.delete()
    except ConfigError as error:  # it is declared
        return missing(visit, 409, "/schedules", gettext("Not deleted"), refusal(error))
    return lead_to(visit, "/schedules")


def _found(visit: Visit) -> Schedule | None:
    name = unquote(visit.asked("of") or "")
    if not (0 < len(name) <= LONGEST_NAME and storable(name) == name):
        return None
    state = visit.queue.backend.schedules.get(name)
    if state is None:
        return None
    return Schedule(visit.queue.results, state, lambda: visit.rights.user, visit.act)


def _back(visit: Visit, schedule: Schedule) -> Response:
    return lead_to(visit, "/schedule", of=quote(schedule.name, safe=""))


def _unknown(visit: Visit) -> Response:
    return missing(
        visit, 404, "/schedules", gettext("Unknown"), gettext("There is no such schedule.")
    )
