"""``/jobs``: a list of jobs, narrowed by fields of the URL, in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from ..errors import ConfigError
from ..job import Snapshot
from ..sharing import user_of
from .change_page import notice, offered
from .dashboard import page
from .filters import Filters
from .refusals import refusal
from .status_shapes import STATE_OF, state_of
from .texts import gettext, marked

if TYPE_CHECKING:
    from .visit import Visit

#: Rows of a page.
ROWS = 50

#: So many ended jobs a page looks at, if no index finds those of its filter.
LOOKED_AT = 10_000

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
    following = None
    try:
        wanted, after = filters.wanted(visit), filters.cursor(visit)
        found = visit.queue.backend.find(wanted, after, ROWS, LOOKED_AT)
    except ConfigError as error:
        status, wrong = 400, refusal(error)
    else:
        rows, following = visit.queue.backend.get_many(found.uids), found.next
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
        is_partial=following is not None and len(rows) < ROWS,
        is_first=not visit.asked("after"),
        wrong=wrong,
        after=visit.asked("after"),
        changes=offered(filters),
        notice=notice(visit),
    )


def _ages(filters: Filters) -> list[tuple[str, str]]:
    """The ages to choose from, with that of the URL."""
    own = filters.since
    ages = [(age, gettext(name)) for age, name in AGES]
    return [*ages, *([] if own is None or own in dict(AGES) else [(own, own)])]
