"""``/audit``: who has done what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from ..backends.audit import AuditRecord
from .dashboard import missing, page
from .texts import gettext, marked

if TYPE_CHECKING:
    from .visit import Visit

#: Rows of a page.
ROWS = 50

#: What is shown of a filter, in characters.
SUBJECT_LENGTH = 300

#: How something was done, for each ``via`` of an Act.
WAYS = {
    "page": marked("by a page"),
    "command": marked("by a command"),
    "program": marked("by a program"),
}

#: What can be done, as records name it.
ACTIONS = (
    marked("cancel"),
    marked("retry"),
    marked("pause"),
    marked("resume"),
    marked("limit"),
    marked("purge"),
    marked("delete"),
    marked("run now"),
)

#: Those of which the subject may be the uid of a job; a queue may have any name.
OF_JOBS = ("cancel", "retry")

#: How it ended, as records name it; an action on many has numbers.
RESULTS = (marked("done"), marked("nothing to do"), marked("begun"))


def show(visit: Visit) -> Response:
    """Answer with a page of the records, the last first."""
    given = visit.asked("before")
    if given is not None and not (given.isascii() and given.isdigit() and len(given) < 19):
        return missing(
            visit, 400, "/audit", gettext("Not understood"), gettext("There is no such page.")
        )
    before = None if given is None else int(given)
    rows = visit.queue.backend.audit.page(before, ROWS + 1)
    return page(
        visit,
        "audit.xhtml",
        "/audit",
        gettext("Audit"),
        rows=rows[:ROWS],
        next=str(rows[ROWS - 1].number) if len(rows) > ROWS else None,
        is_first=before is None,
        is_shared=visit.overview is not None,
        length=SUBJECT_LENGTH,
        ways=WAYS,
        is_of_job=_is_of_job,
    )


def _is_of_job(record: AuditRecord) -> bool:
    return record.action in OF_JOBS and record.subject.startswith("asyncjob_")
