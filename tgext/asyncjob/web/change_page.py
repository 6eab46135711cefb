"""Retry and cancel many jobs: those that are selected in the list, or all of its filter.

All of a filter are counted and frozen by ``GET /jobs/all``, and changed by a job of our own, whose
page ``POST /jobs/all`` leads to.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from webob import Response

from .. import bulk
from ..backends.listing import Counted, JobFilter
from ..errors import ConfigError, QueueClosed, QueueFull
from ..job import FAILED, TaskResultStatus
from ..wording import number_of
from .dashboard import LOOKED_AT, MOST_COUNTED, lead_to, missing, page
from .filters import Filters
from .refusals import refusal
from .texts import gettext, marked, ngettext

if TYPE_CHECKING:
    from .visit import Visit

#: The most jobs that are selected: the list has fewer rows.
MOST_SELECTED = 200

#: What the buttons for all of a list say.
OFFERS = {"retry": marked("Retry all that match"), "cancel": marked("Cancel all that match")}


class Change(NamedTuple):
    """What a button offers for all jobs of a list."""

    action: str
    button: str


def offered(filters: Filters) -> list[Change]:
    """Return what can be done with the jobs of a list."""
    return [Change(name, gettext(OFFERS[name])) for name in OFFERS if _narrowed(filters, name)]


def _narrowed(filters: Filters, action: str) -> tuple[TaskResultStatus, ...]:
    """The statuses of a list's jobs that an action is for; to retry what was successful, or was
    cancelled on purpose, it must be asked for."""
    possible = [TaskResultStatus(each) for each in bulk.STATUSES[action]]
    if filters.status is not None:
        return tuple(each for each in possible if each.value == filters.status)
    return (FAILED,) if action == "retry" else tuple(possible)


def change_selected(visit: Visit) -> Response:
    """Change the jobs ``job`` of the form, and lead back to the list."""
    filters, action = Filters.of(visit), visit.asked("action")
    uids = list(dict.fromkeys(visit.fields.getall("job")))
    if action not in OFFERS or len(uids) > MOST_SELECTED:
        return missing(
            visit, 400, "/jobs", gettext("Not understood"), gettext("This cannot be done.")
        )
    changed = 0
    if uids:
        subject = f"{number_of(len(uids), 'selected job')}: {' '.join(uids)}"
        changed = visit.queue.backend.change_many(action, uids, visit.now, visit.act, subject)
    fields = {**filters._asdict(), "after": visit.asked("after") or None}
    return lead_to(visit, "/jobs", did=action, changed=str(changed), of=str(len(uids)), **fields)


def notice(visit: Visit) -> str | None:
    """Say what the form has done that led to this page; None: it was none."""
    did, numbers = visit.asked("did"), [visit.asked("changed") or "", visit.asked("of") or ""]
    if did not in OFFERS or not all(each.isascii() and each.isdigit() for each in numbers):
        return None
    changed, given = (int(each[:6]) for each in numbers)
    if not given:
        return gettext("No job is selected.")
    if did == "retry":
        said = ngettext(
            "%(number)s job was enqueued again.", "%(number)s jobs were enqueued again.", changed
        )
    else:
        said = ngettext("%(number)s job was cancelled.", "%(number)s jobs were cancelled.", changed)
    left = given - changed
    if left <= 0:
        return said
    more = ngettext(
        "The status of %(number)s other does not allow it.",
        "The status of %(number)s others does not allow it.",
        left,
    )
    return f"{said} {more}"


def confirm(visit: Visit) -> Response:
    """Freeze the jobs of a filter, and ask whether they are to be changed."""
    filters, action = Filters.of(visit), visit.asked("action") or ""
    try:
        statuses = _narrowed(filters, action)
        wanted = filters.wanted(visit)._replace(statuses=frozenset(statuses))
    except (ConfigError, KeyError):
        return missing(
            visit, 400, "/jobs", gettext("Not understood"), gettext("There is no such filter.")
        )
    frozen = bulk.frozen(visit.queue, wanted, visit.now)
    found = Counted(0, True)
    if statuses:
        found = visit.queue.backend.count(frozen, MOST_COUNTED, LOOKED_AT)
    return page(
        visit,
        "change_all.xhtml",
        "/jobs",
        gettext(OFFERS[action]),
        possible=found.number > 0 or not found.is_all,
        announced=_announced(action, found),
        counted_of=None if found.is_all else _counted_of(),
        button=_button(action, found),
        described=frozen.described(),
        fields=filters._asdict(),
        of=json.dumps({"action": action, "filter": frozen.as_json()}),
    )


def _announced(action: str, found: Counted) -> str:
    number = found.number
    if not number:
        return gettext("None of the jobs that were looked at is like that; others may be.")
    if action == "retry":
        if not found.is_all:
            return ngettext("At least %(number)s job will be enqueued again.",
                            "At least %(number)s jobs will be enqueued again.", number)  # fmt: skip
        return ngettext("%(number)s job will be enqueued again.",
                        "%(number)s jobs will be enqueued again.", number)  # fmt: skip
    if not found.is_all:
        return ngettext("At least %(number)s job will be cancelled.",
                        "At least %(number)s jobs will be cancelled.", number)  # fmt: skip
    return ngettext(
        "%(number)s job will be cancelled.", "%(number)s jobs will be cancelled.", number
    )


def _counted_of() -> str:
    """Say that there may be more than were counted."""
    return gettext(
        "Counting ends after %(number)s jobs; the change goes on to all that match.",
        number=f"{LOOKED_AT:,}",
    )


def _button(action: str, found: Counted) -> str:
    number = found.number
    if not found.is_all:
        return gettext(OFFERS[action])
    if action == "retry":
        return ngettext("Retry %(number)s job", "Retry %(number)s jobs", number)
    return ngettext("Cancel %(number)s job", "Cancel %(number)s jobs", number)


def change_all(visit: Visit) -> Response:
    """Enqueue the job that changes the frozen jobs ``of``, and lead to its page."""
    try:
        given = json.loads(unquote(visit.asked("of") or ""))
        action, wanted = given["action"], JobFilter.of_json(given["filter"])
        if action not in OFFERS or wanted.statuses is None or wanted.highest is None:
            raise ValueError
    except (ConfigError, KeyError, RecursionError, TypeError, ValueError):
        return missing(
            visit, 400, "/jobs", gettext("Not understood"), gettext("There is no such filter.")
        )
    try:
        queue_name = _served_queue(visit)
        found = bulk.start(visit.queue, action, wanted, visit.act, queue_name, visit.context)
    except (QueueFull, QueueClosed) as error:
        return missing(visit, 503, "/jobs", gettext("Not now"), refusal(error))
    return lead_to(visit, "/job", uid=found.id)


def _served_queue(visit: Visit) -> str:
    """The queue for a job of our own: one that a worker serves, if that is known."""
    overview, usual = visit.overview, "default"
    paused = {each.queue_name for each in visit.queue.paused()}
    served = [] if overview is None else [worker.queues for worker in overview.workers()]
    if any(names is None or usual in names for names in served) and usual not in paused:
        return usual
    named = sorted({name for names in served for name in names or ()} - paused)
    return named[0] if named else usual
