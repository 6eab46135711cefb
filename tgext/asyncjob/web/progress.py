"""What the progress elements of a page ask for: how jobs stand, a reload, a cancellation."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from webob import Response

from ..errors import UnknownJob
from ..job import SUCCESSFUL
from .element import made
from .job_state import as_json
from .origin import is_local, is_of_host
from .pages import render, say
from .redirect import led_to
from .texts import gettext
from .visitor import Visitor

if TYPE_CHECKING:
    from .visit import Visit

#: The most jobs of one request; the element asks for more in several requests.
MOST_JOBS = 50

#: Keys that change while nothing happens; the ETag is made without them. Of the time that is left
#: it says whether it is known.
_PASSING = ("ages", "due_in", "eta_seconds")


def show(visit: Visit) -> Response:
    """Answer with JSON, ``{"jobs": [...]}``, one for each uid of the query and in its order.

    304 if nothing has happened since the ETag that the request names: ages have only grown then.
    """
    uids = list(dict.fromkeys(visit.request.GET.getall("uid")))
    if not 1 <= len(uids) <= MOST_JOBS:
        wrong = f"expected uid={{uid}} 1 to {MOST_JOBS} times, got {len(uids)}"
        return _json({"error": wrong}, status=400)
    found = visit.briefs(uids)
    jobs = [as_json(uid, found.get(uid)) for uid in uids]
    etag = _etag(jobs)
    if visit.request.headers.get("If-None-Match") == etag:
        response = Response(status=304)
        del response.content_type
    else:
        response = _json({"jobs": jobs})
    response.headers["ETag"] = etag
    return response


def _json(content: dict[str, Any], status: int = 200) -> Response:
    body = json.dumps(content, separators=(",", ":")).encode("ascii")
    return Response(body=body, status=status, content_type="application/json", charset=None)


def _etag(jobs: list[dict[str, Any]]) -> str:
    lasting = [
        [job["eta_seconds"] is None, {name: job[name] for name in job if name not in _PASSING}]
        for job in jobs
    ]
    text = json.dumps(lasting, separators=(",", ":"))
    return f'W/"{hashlib.sha256(text.encode("ascii")).hexdigest()[:24]}"'


def reload(visit: Visit) -> Response:
    """Lead back to the page with the element, or on to its ``then`` if the job is done.

    Without a Referer of this site, answer with a page that has the same element.
    """
    uid, then = visit.asked("uid") or "", visit.asked("then")
    job = visit.briefs([uid]).get(uid)
    signed = then is not None and visit.tokens.fits(visit.asked("token"), "then", uid, then)
    # The signature says that it was local when it was rendered; that is looked at again, too.
    then = then if then is not None and signed and is_local(then) else None
    if then is not None and job is not None and job.status is SUCCESSFUL:
        return led_to(then)
    return _back(visit) or _page(visit, uid, then)


def cancel(visit: Visit) -> Response:
    """Cancel a job; JSON for the element, for a form the way back to its page.

    A job that has ended stays as it is, and so does one that is cancelled already.
    """
    uid = visit.asked("uid") or ""
    job = visit.queue.results.briefs([uid]).get(uid)
    if job is None or not visit.may_cancel(job):
        # The same answer for both: it does not tell whether there is such a job.
        reason = gettext("You may not cancel this job, or it is unknown.")
        return say(visit, 403, gettext("Not allowed"), reason)
    try:
        cancelled = visit.queue.results.cancel(uid, visit.act)
    except UnknownJob:  # removed in between
        cancelled = False
    if "application/json" in visit.request.headers.get("Accept", ""):
        return _json({"cancelled": cancelled})
    return _back(visit) or _page(visit, uid, None)


def _back(visit: Visit) -> Response | None:
    """Lead to the page that the request came from; None if it is the one that this answers with,
    or not known."""
    referer = visit.request.headers.get("Referer", "")
    if not is_of_host(referer, visit.request):
        return None
    path = "/" + referer.partition("//")[2].partition("/")[2]
    if path.partition("?")[0] in (f"{visit.base}/reload", f"{visit.base}/cancel"):
        return None
    return led_to(path) if is_local(path) else None


def _page(visit: Visit, uid: str, then: str | None) -> Response:
    visitor = Visitor(visit.rights, visit.base)
    element = made(visit.queue, uid, visitor, visit.briefs([uid]).get(uid), then=then)
    return render("progress.xhtml", visit, element=element)
