"""``/failures``: the failed jobs of the last day in groups, and the retry of a group."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from webob import Response

from ..backends.listing import MOST_LISTED, JobFilter
from ..errors import UnknownJob
from ..job import FAILED
from .dashboard import lead_to, page
from .failure_groups import FailureGroup, groups_of

if TYPE_CHECKING:
    from .visit import Visit

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
        "Failures",
        groups=groups,
        number=sum(len(group.uids) for group in groups),
        is_all=is_all,
        retried=int(retried) if is_number else None,
    )


def _groups(visit: Visit) -> tuple[list[FailureGroup], bool]:
    """Read the newest failures, up to MOST_LISTED; and whether that are all of the day."""
    wanted = JobFilter.of(FAILED, since=visit.now - AGE)
    found = visit.queue.backend.find(wanted, None, MOST_LISTED)
    return groups_of(visit.queue.backend.get_many(found.uids)), found.next is None


def retry(visit: Visit) -> Response:
    """Enqueue the jobs of the group ``of`` again: those that are in it now, and no later ones."""
    key, retried = visit.asked("of"), 0
    groups, _is_all = _groups(visit)
    for group in groups:
        for uid in group.uids if group.key == key else ():
            retried += _retry(visit, uid)
    return lead_to(visit, "/failures", retried=str(retried))


def _retry(visit: Visit, uid: str) -> bool:
    results = visit.queue.results
    try:
        # Somebody else may have retried it in between, and it was successful then.
        return results.snapshot(uid).status is FAILED and results.retry(uid)
    except UnknownJob:  # removed in between
        return False
