"""Answers with a page of the dashboard: its frame, navigation, notice, and whether it has changed.

Every URL of a page is made by ``url``. A page is sent with an ETag of all that it shows, so that
``static/dashboard.js``, which asks for it again and again, gets 304 as long as it is the same.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from webob import Response

from ..errors import ConfigError
from .job_state import NAME_LENGTH, shown
from .moments import ago
from .pages import render
from .statics import url_of

if TYPE_CHECKING:
    from .visit import Visit

#: The pages of the navigation.
NAVIGATION = (
    ("Overview", "/"),
    ("Jobs", "/jobs"),
    ("Failures", "/failures"),
    ("Queues", "/queues"),
    ("Workers", "/workers"),
)

#: A number is counted up to here.
MOST_COUNTED = 10_000

#: Characters of a text in a table.
CELL_LENGTH = NAME_LENGTH


class Dashboard:
    """What the templates use beside the data of a page."""

    def __init__(self, visit: Visit, here: str, is_live: bool) -> None:
        self._visit = visit
        self.here = here  #: the path of the page
        self.is_live = is_live  #: whether it is asked for again and again
        self.navigation = NAVIGATION
        self.user = visit.rights.user
        self.may_act = visit.rights.may_act
        self.css = [url_of(visit.base, name) for name in ("progress.css", "dashboard.css")]
        self.script = url_of(visit.base, "dashboard.js")

    def url(self, path: str, **query: str | None) -> str:
        """Return the URL of a page; a field that is None is left out."""
        return url(self._visit, path, **query)

    def ago(self, instant: datetime | None) -> Markup:
        """See ``moments.ago``."""
        return ago(instant, self._visit.now)

    def text(self, text: object, length: int = CELL_LENGTH) -> str:
        """Return a text of an application or its users as one harmless line."""
        return shown(str(text), length)

    def quoted(self, text: str) -> str:
        """Return a name as a hidden field of a form has it: as in a URL, so in plain letters."""
        return quote(text, safe="", errors="backslashreplace")

    def number(self, count: int) -> str:
        """Return a number of jobs that was counted up to MOST_COUNTED."""
        return f"{MOST_COUNTED:,}+" if count > MOST_COUNTED else f"{count:,}"

    def form(self, path: str, button: str, label: str, **fields: str) -> Markup:
        """Return a form with one button, which changes something.

        label: what it is for, in words for those who hear the button only.
        """
        visit = self._visit
        hidden = dict(fields)
        try:
            subject = fields.get("uid", fields.get("of"))
            hidden["token"] = visit.tokens.sign("post", path, subject, visit.rights.user)
        except ConfigError:  # no secret: browsers that say where they come from do without
            pass
        inputs = Markup("").join(
            Markup('<input type="hidden" name="{}" value="{}"/>').format(*field)
            for field in hidden.items()
        )
        return Markup(
            '<form class="action" method="post" action="{}">{}'
            '<button type="submit" aria-label="{}">{}</button></form>'
        ).format(url(visit, path), inputs, label, button)


def url(visit: Visit, path: str, **query: str | None) -> str:
    """Return the URL of a page, without the host; a field that is None is left out."""
    fields = {name: value for name, value in query.items() if value is not None}
    # backslashreplace: a lone surrogate of an old name has no UTF-8
    text = urlencode(fields, errors="backslashreplace")
    return f"{visit.base}{path}?{text}" if fields else f"{visit.base}{path}"


def page(
    visit: Visit, template: str, here: str, title: str, *, status: int = 200, **variables: Any
) -> Response:
    """Answer with a page of the dashboard; 304 if the browser has it. variables: those of the
    template."""
    dash = Dashboard(visit, here, status == 200)
    response = render(template, visit, status, dash=dash, title=title, **variables)
    if status != 200:
        return response
    etag = f'W/"{hashlib.sha256(response.body).hexdigest()[:24]}"'
    if visit.request.method == "GET" and visit.request.headers.get("If-None-Match") == etag:
        response = Response(status=304)
        del response.content_type
    response.headers["ETag"] = etag
    return response


def missing(visit: Visit, status: int, here: str, title: str, sentence: str) -> Response:
    """Answer with a page of one sentence, and the way back to *here*."""
    return page(visit, "missing.xhtml", here, title, status=status, sentence=sentence)


def lead_to(visit: Visit, path: str, **query: str | None) -> Response:
    """Answer that the browser is to go on to another page of the dashboard."""
    return Response(status=303, location=url(visit, path, **query))


def start(visit: Visit) -> Response:
    """Lead from the place of the application to the overview, which is below it."""
    return lead_to(visit, "/")
