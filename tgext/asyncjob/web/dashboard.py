"""Answers with a page of the dashboard: its frame, navigation, notice, and whether it has changed.

Every URL of a page is made by ``url``. A page is sent with an ETag of all that it shows, so that
``static/dashboard.js``, which asks for it again and again, gets 304 as long as it is the same.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from webob import Response

from ..errors import ConfigError
from ..job import storable
from .job_state import NAME_LENGTH, shown
from .moments import ago
from .pages import render
from .redirect import led_to
from .statics import url_of
from .texts import gettext, marked, sentence

if TYPE_CHECKING:
    from .visit import Visit

#: The pages of the navigation.
NAVIGATION = (
    (marked("Overview"), "/"),
    (marked("Jobs"), "/jobs"),
    (marked("Failures"), "/failures"),
    (marked("Queues"), "/queues"),
    (marked("Schedules"), "/schedules"),
    (marked("Limits"), "/limits"),
    (marked("Workers"), "/workers"),
    (marked("Audit"), "/audit"),
)

#: What ``static/dashboard.js`` says, by the names that it has for it.
TEXTS = {
    "pause": marked("Pause updates"),
    "resume": marked("Resume updates"),
    "paused": marked("Updates are paused"),
    "away": marked("The server does not answer. Trying again."),
    "over": marked("This page cannot be read any more. Reload it."),
    "keysOff": marked("Switch keys off"),
    "keysOn": marked("Switch keys on"),
}

#: A number is counted up to here.
MOST_COUNTED = 10_000

#: So many jobs are looked at, if no index finds those of a filter.
LOOKED_AT = 10_000

#: Characters of a text in a table.
CELL_LENGTH = NAME_LENGTH


class Dashboard:
    """What the templates use beside the data of a page."""

    def __init__(self, visit: Visit, here: str, is_live: bool) -> None:
        self._visit = visit
        self.here = here  #: the path of the page
        self.is_live = is_live  #: whether it is asked for again and again
        self.navigation = [(gettext(name), path) for name, path in NAVIGATION]
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

    def number(self, count: int, is_capped: bool = False) -> str:
        """Return a number of jobs. is_capped: there may be more; so there are if it is more than
        MOST_COUNTED."""
        return counted(count, is_capped)

    def by(self, since: datetime, user: str | None) -> Markup:
        """Return since when something holds, and by whom if that is known."""
        if user is None:
            return self.ago(since)
        name = Markup('<span dir="auto">{}</span>').format(self.text(user))
        return sentence("%(time)s by %(user)s", time=self.ago(since), user=name)

    @property
    def logged_in(self) -> Markup:
        """Say who is logged in."""
        name = Markup('<span dir="auto">{}</span>').format(self.text(self.user))
        return sentence("Logged in as %(user)s.", user=name)

    @property
    def texts(self) -> str:
        """The texts of the script, as JSON."""
        return json.dumps({name: gettext(text) for name, text in TEXTS.items()})

    def form(self, path: str, button: str, label: str, **fields: str) -> Markup:
        """Return a form with one button, which changes something.

        label: what it is for, in words for those who hear the button only.
        """
        inputs = self.hidden(path, **fields)
        return Markup(
            '<form class="action" method="post" action="{}">{}'
            '<button type="submit" aria-label="{}">{}</button></form>'
        ).format(url(self._visit, path), inputs, label, button)

    def hidden(self, path: str, **fields: str | None) -> Markup:
        """Return the hidden fields of a form that changes something, with the token for it; those
        that are None are left out."""
        visit = self._visit
        given = {name: value for name, value in fields.items() if value is not None}
        with suppress(ConfigError):  # no secret: browsers that say where they come from do without
            subject = given.get("uid", given.get("of"))
            given["token"] = visit.tokens.sign("post", path, subject, visit.rights.user)
        return Markup("").join(
            Markup('<input type="hidden" name="{}" value="{}"/>').format(name, self._whole(value))
            for name, value in given.items()
        )

    def _whole(self, text: str) -> str:
        """A value that a browser sends back: without what no page may have."""
        return text if storable(text) == text and text.isprintable() else shown(text, 400)


def counted(count: int, is_capped: bool = False) -> str:
    """Return a number of jobs that was counted up to MOST_COUNTED, or, is_capped, up to *count*."""
    shown = min(count, MOST_COUNTED)
    return f"{shown:,}{'+' * (is_capped or count > MOST_COUNTED)}"


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
    return led_to(url(visit, path, **query))


def start(visit: Visit) -> Response:
    """Lead from the place of the application to the overview, which is below it."""
    return lead_to(visit, "/")
