"""``/failures``: the failed jobs of the last day in groups, and the retry of a group."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from webob import Response

from ..backends.listing import MOST_LISTED, JobFilter
from ..job import FAILED
from .dashboard import lead_to, page
from .failure_groups import FailureGroup, groups_of
from .texts import gettext

if TYPE_CHECKING:
    from .visit import Visit

#: More than instants lose when they are read.
A_MOMENT = timedelta(milliseconds=1)

#: How far back failures are looked at.
AGE = timedelta(days=1)


def show(visit: Visit) -> Response:
    """Answer with the groups of the newest failures, and with how many a POST has retried."""
    groups, is_all = _groups(visit)
    retried = visit.asked("retried") or ""
    is_number = retried.isascii() and retried.isdigit() and len(retried) < 6
    return page(
        visit,
        "failures.xhtml",
        "/failures",
        gettext("Failures"),
        groups=groups,
        number=sum(len(group.uids) for group in groups),
        is_all=is_all,
        retried=int(retried) if is_number else None,
    )


def _groups(visit: Visit) -> tuple[list[FailureGroup], bool]:
    """Read the newest failures, up to MOST_LISTED; and whether that are all of the day."""
    wanted = JobFilter.of(FAILED, since=visit.now - AGE)
    found = visit.queue.backend.find(wanted, None, MOST_LISTED)
    return groups_of(visit.queue.backend.last_errors(found.uids)), found.next is None


def retry(visit: Visit) -> Response:
    """Enqueue the jobs of the group ``of`` again: those that are in it now, and no later ones."""
    key, retried = visit.asked("of"), 0
    groups, _is_all = _groups(visit)
    for group in groups:
        if group.key == key:
            subject = f"failures of {group.name} with {group.error_class or 'no error'}"
            # Somebody else may have retried one in between, and it has ended once more.
            retried = visit.queue.backend.change_many(
                "retry", group.uids, group.last + A_MOMENT, visit.act, subject
            )
    return lead_to(visit, "/failures", retried=str(retried))
