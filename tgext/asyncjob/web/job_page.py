"""``/job``: everything about one job, and what can be done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from webob import Response

from ..backends.brief import MOST_SHOWN_BEFORE, Brief
from ..backends.overview import QueuePosition
from ..errors import UnknownJob
from ..explanation import explain_waiting
from ..job import READY, SUCCESSFUL, Snapshot, TaskError
from ..sharing import user_of
from ..uniqueness import PREFIX
from .arguments import arguments_of, value_shown
from .dashboard import lead_to, missing, page
from .element import made
from .job_state import shown
from .lines import several_lines
from .refusals import refusal
from .texts import gettext, said
from .tracebacks import traceback_of
from .visitor import Visitor

if TYPE_CHECKING:
    from .visit import Visit

#: The newest errors of a job that are shown.
MOST_ERRORS = 20

#: What is shown of a message, in characters.
LONGEST_MESSAGE = 2_000


def show(visit: Visit) -> Response:
    """Answer with the page of the job ``uid``; 404 if it is unknown."""
    uid = visit.asked("uid") or ""
    try:
        found = visit.queue.results.snapshot(uid)
    except UnknownJob as error:
        return missing(visit, 404, "/jobs", gettext("No such job"), shown(refusal(error), 400))
    brief = visit.briefs([uid]).get(uid)
    visitor = Visitor(visit.rights, visit.base)
    is_cancelled = brief is not None and brief.is_cancelled
    position = _position(visit, brief) if found.status is READY else None
    return page(
        visit,
        "job.xhtml",
        "/jobs",
        shown(found.job.call.name, 200),
        job=found,
        uid=uid,
        element=made(visit.queue, uid, visitor, brief),
        user=user_of(found.job.context),
        request=_request(found),
        attempts=_attempts(found),
        unique_key=_unique_key(found),
        reasons=_reasons(visit, found, position) if found.status is READY else [],
        position=_before(position),
        errors=_errors(found),
        left_out=max(0, len(found.errors) - MOST_ERRORS),
        arguments=arguments_of(found.job),
        result=value_shown(found.result) if found.status is SUCCESSFUL else None,
        log="\n".join(several_lines(line) for line in found.log),
        may_retry=visit.rights.may_act and found.status.is_final,
        may_cancel=brief is not None
        and not found.status.is_final
        and not is_cancelled
        and (visit.rights.may_act or visit.rights.owns(brief)),
    )


def _request(found: Snapshot) -> str | None:
    """The request that enqueued a job, or that of the job which did, as far as it is known."""
    context = found.job.context or {}
    line, number, address = (context.get(name) for name in ("request", "request_id", "base_url"))
    if line and address:
        method, _, path = str(line).partition(" ")
        address = f"{method} {address}{path}"
    return ", ".join(str(each) for each in (address or line, number) if each) or None


def _attempts(found: Snapshot) -> str:
    """Say how many attempts there were, and may be; a retry allows as many once more."""
    given = {"number": found.attempts, "most": found.job.options.max_attempts}
    if found.attempts <= found.job.options.max_attempts:
        return gettext("%(number)s of %(most)s allowed", **given)
    return gettext("%(number)s in all, up to %(most)s after each retry", **given)


def _unique_key(found: Snapshot) -> str | None:
    unique = None if found.job.keys is None else found.job.keys.unique
    return None if unique is None else unique.key.removeprefix(PREFIX)


def _reasons(visit: Visit, found: Snapshot, position: QueuePosition | None) -> list[str]:
    reasons = explain_waiting(visit.queue.backend, found, position, visit.now, workers=True)
    return [shown(said(reason), 400) for reason in reasons]


def _position(visit: Visit, brief: Brief | None) -> QueuePosition | None:
    if brief is None or brief.before is None:
        return None if brief is None else visit.queue.backend.position(brief.uid)
    return QueuePosition(False, brief.before, False, MOST_SHOWN_BEFORE)  # it was read already


def _before(position: QueuePosition | None) -> str | None:
    """How many jobs would be taken before; None if that is not known."""
    if position is None or position.is_delayed:
        return None
    return f"{position.before}{'+' * position.is_capped}"


def _errors(found: Snapshot) -> list[tuple[int, TaskError, str, Any]]:
    """Number, error, message and traceback of each attempt that failed, the newest first."""
    numbered = list(enumerate(found.errors, 1))[-MOST_ERRORS:]
    return [
        (
            number,
            error,
            several_lines(error.message, LONGEST_MESSAGE),
            traceback_of(error.traceback),
        )
        for number, error in reversed(numbered)
    ]


def retry(visit: Visit) -> Response:
    """Enqueue the job ``uid`` again if it has ended, and lead to its page."""
    uid = visit.asked("uid") or ""
    try:
        visit.queue.results.retry(uid, visit.act)
    except UnknownJob as error:
        return missing(visit, 404, "/jobs", gettext("No such job"), shown(refusal(error), 400))
    return lead_to(visit, "/job", uid=uid)
