"""``/jobs``: a list of jobs, narrowed by fields of the URL, in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from ..backends.brief import user_of
from ..errors import ConfigError
from ..job import Snapshot
from .dashboard import page
from .filters import Filters
from .status_shapes import STATE_OF, state_of

if TYPE_CHECKING:
    from .visit import Visit

#: Rows of a page.
ROWS = 50

#: The ages that the form offers.
AGES = (("15m", "15 minutes"), ("1h", "1 hour"), ("1d", "1 day"), ("7d", "7 days"))


def show(visit: Visit) -> Response:
    """Answer with a page of the list; with 400 for a field that cannot be understood."""
    filters, status, wrong = Filters.of(visit), 200, None
    rows: list[Snapshot] = []
    following = None
    try:
        found = visit.queue.backend.find(filters.wanted(visit), filters.cursor(visit), ROWS)
    except ConfigError as error:
        status, wrong = 400, str(error)
    else:
        rows, following = visit.queue.backend.get_many(found.uids), found.next
    return page(
        visit,
        "jobs.xhtml",
        "/jobs",
        "Jobs",
        status=status,
        filters=filters,
        fields=filters._asdict(),
        statuses=[(each.value, STATE_OF[each][1]) for each in STATE_OF],
        ages=_ages(filters),
        rows=[(each, state_of(each), user_of(each.job.context)) for each in rows],
        next=following,
        is_first=not visit.asked("after"),
        wrong=wrong,
    )


def _ages(filters: Filters) -> list[tuple[str, str]]:
    """The ages to choose from, with that of the URL."""
    own = filters.since
    return [*AGES, *([] if own is None or own in dict(AGES) else [(own, own)])]
