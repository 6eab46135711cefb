"""``WebApplication``: answers each request by the table of routes, with the same headers on all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from webob import Request, Response

from ..queue import JobQueue
from .job_state import shown
from .pages import say
from .routes import Right, Route, found_at
from .texts import Translations, gettext, marked, translated_by
from .visit import RightsOf, Visit

#: On every answer. ``'self'``: the static files of the package, and its own JSON.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

#: The longest form that is read, in bytes.
MOST_BYTES = 65_536

#: Said to a form that another site may have sent.
ELSEWHERE = marked("This was not sent by a page of this site. Go back, reload, and try again.")

#: Seconds after which to ask again, while the store cannot be reached.
RETRY_AFTER = 5


class WebApplication:
    """The progress elements' JSON, and the pages of a queue: a WSGI application without a state.

    It answers at the paths of its table of routes, below SCRIPT_NAME: mount it by that.

    rights: returns the Rights of a request, by its WSGI environ; None for nobody. Without it, and
    where it returns None, nothing is shown but the progress of jobs whose uid is known.

    translations: returns what translates the texts of a request's pages, by its WSGI environ, such
    as a ``gettext.GNUTranslations``; None: English.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        rights: RightsOf | None = None,
        translations: Callable[[dict[str, Any]], Translations | None] | None = None,
    ) -> None:
        self._queue = queue
        self._rights_of = rights
        self._translations_of = translations

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        request = Request(environ)
        source, of = None, self._translations_of
        if of is not None:
            source = lambda: of(environ)  # noqa: E731 - only where there is a text
        with translated_by(source):
            response = self._answer(Visit(self._queue, request, self._rights_of))
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.update(HEADERS)
        found: Iterable[bytes] = response(environ, start_response)
        return found

    def _answer(self, visit: Visit) -> Response:
        request = visit.request
        try:
            routes = found_at(request.path_info)
            method = "GET" if request.method == "HEAD" else request.method
        except UnicodeDecodeError:  # the path is no UTF-8
            routes = {}
        if not routes:
            return say(
                visit, 404, gettext("No such page"), gettext("There is no page at this address.")
            )
        if method not in routes:
            response = say(
                visit, 405, gettext("Not possible"), gettext("This address has another purpose.")
            )
            response.headers["Allow"] = ", ".join(sorted(routes))
            return response
        if _has_too_much(request):
            return say(visit, 413, gettext("Too long"), gettext("The form is too long."))
        try:
            if method != "GET" and visit.is_from_elsewhere:
                return say(visit, 403, gettext("Not allowed"), gettext(ELSEWHERE))
            route = routes[method]
            return route.answer(visit) if route.allows(visit) else refuse(visit, route)
        except UnicodeDecodeError:  # a field of the query or the form
            return say(
                visit,
                400,
                gettext("Not understood"),
                gettext("The address or the form is damaged."),
            )
        except Exception as error:
            if not self._queue.backend.is_passing(error):
                raise
            response = say(
                visit,
                503,
                gettext("Not now"),
                gettext("The jobs cannot be read. Try again shortly."),
            )
            response.headers["Retry-After"] = str(RETRY_AFTER)
            return response


def _has_too_much(request: Request) -> bool:
    """Whether a body is longer than is read. One in chunks, of which no length is said, is read."""
    if request.content_length is None and request.is_body_readable:
        request.body = request.body_file_raw.read(MOST_BYTES + 1)
    return (request.content_length or 0) > MOST_BYTES


def refuse(visit: Visit, route: Route) -> Response:
    """Answer that a permission is needed, and which."""
    options, user = visit.queue.options, visit.rights.user
    readers = options.web_readonly_permission if route.right is Right.VIEW else None
    permission = f'"{options.web_permission}"'
    if readers:
        other = f'"{readers}"'
        permission = gettext("%(one)s or %(other)s", one=other, other=permission)
    if user is None:
        who = gettext("You are not logged in.")
    else:
        who = gettext("You are logged in as %(user)s.", user=shown(user, 100))
    if route.right is Right.VIEW:
        what = gettext("To see the jobs, the permission %(name)s is needed.", name=permission)
    else:
        what = gettext("To change jobs, the permission %(name)s is needed.", name=permission)
    return say(visit, 403, gettext("Not allowed"), f"{who} {what}")
