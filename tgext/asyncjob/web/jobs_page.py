"""``/jobs``: a list of jobs, narrowed by fields of the URL, in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from ..backends.listing import ENDED, Cursor, JobFilter
from ..errors import ConfigError
from ..job import CANCELLED, FAILED, SUCCESSFUL, Snapshot
from ..sharing import user_of
from .change_page import notice, offered
from .dashboard import LOOKED_AT, page
from .filters import Filters
from .refusals import refusal
from .status_shapes import STATE_OF, state_of
from .texts import gettext, marked

if TYPE_CHECKING:
    from .visit import Visit

#: Rows of a page.
ROWS = 50

#: An instant after the end of every job.
FAR_AHEAD = 1e11

#: The ages that the form offers.
AGES = (
    ("15m", marked("15 minutes")),
    ("1h", marked("1 hour")),
    ("1d", marked("1 day")),
    ("7d", marked("7 days")),
)


def show(visit: Visit) -> Response:
    """Answer with a page of the list; with 400 for a field that cannot be understood."""
    filters, status, wrong = Filters.of(visit), 200, None
    rows: list[Snapshot] = []
    following = ended = None
    try:
        wanted, after = filters.wanted(visit), filters.cursor(visit)
        found = visit.queue.backend.find(wanted, after, ROWS, LOOKED_AT)
    except ConfigError as error:
        status, wrong = 400, refusal(error)
    else:
        rows, following = visit.queue.backend.get_many(found.uids), found.next
        ended = _ended(wanted, following)
    return page(
        visit,
        "jobs.xhtml",
        "/jobs",
        gettext("Jobs"),
        status=status,
        filters=filters,
        fields=filters._asdict(),
        statuses=[(each.value, gettext(STATE_OF[each][1])) for each in STATE_OF],
        ages=_ages(filters),
        rows=[(each, state_of(each), user_of(each.job.context)) for each in rows],
        next=following,
        looked_at=_looked_at() if following is not None and len(rows) < ROWS else None,
        ended=ended,
        is_first=not visit.asked("after"),
        wrong=wrong,
        after=visit.asked("after"),
        changes=offered(filters),
        notice=notice(visit),
    )


def _looked_at() -> str:
    """Say that a page has looked at so many jobs, and has fewer rows than there are places."""
    return gettext(
        "Only %(number)s jobs were looked at; the next page looks at those that follow.",
        number=f"{LOOKED_AT:,}",
    )


def _ended(wanted: JobFilter, following: str | None) -> str | None:
    """The place where the jobs of a list begin that have ended; None: the next page has them, or
    there are none."""
    after = Cursor.of(following)
    if after is None or after.place[0] == ENDED or not wanted.has(SUCCESSFUL, FAILED, CANCELLED):
        return None
    return str(Cursor.behind(ENDED, FAR_AHEAD))


def _ages(filters: Filters) -> list[tuple[str, str]]:
    """The ages to choose from, with that of the URL."""
    own = filters.since
    ages = [(age, gettext(name)) for age, name in AGES]
    return [*ages, *([] if own is None or own in dict(AGES) else [(own, own)])]
