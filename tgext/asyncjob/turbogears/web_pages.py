"""Serves the package's pages inside a TurboGears application, and says who asks for them.

They are served by the application wrapper, outside of the application's transaction, and without
its session: an open progress bar asks again and again. Only where a permission is needed the
application's other wrappers are asked for it, as they know the permissions of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tg.i18n import sanitize_language_code, set_request_lang
from tg.predicates import has_permission
from tg.request_local import Response
from tg.request_local import context as request_context
from tg.support.converters import asbool

from ..errors import MissingExtra
from ..queue import JobQueue
from .job_context import user_of

try:
    from ..web import Rights, WebApplication, asyncjob_progress
    from ..web.redirect import LocalRequest, base_of
    from ..web.visitor import Visitor, visitor_var
except MissingExtra:
    is_installed = False
else:
    is_installed = True

#: Whether the user of an environ has a permission.
HasPermission = Callable[[str], bool]

#: Calls the application's other wrappers with a controller, an environ and a context.
Handler = Callable[[Any, "dict[str, Any]", Any], Any]

#: The key in the environ of a request to the pages for its HasPermission.
_ASK = "tgext.asyncjob.has_permission"

#: The same for the application's translations.
_TRANSLATE = "tgext.asyncjob.translations"


class WebPages:
    """The pages of one queue, at its ``web_path``."""

    def __init__(self, queue: JobQueue, path: str) -> None:
        self._options = queue.options
        self._path = path
        self._web = WebApplication(
            queue, rights=self._rights, translations=lambda environ: environ[_TRANSLATE]()
        )

    def has(self, environ: dict[str, Any]) -> bool:
        """Whether a request is for one of the pages."""
        asked: str = environ["PATH_INFO"]
        return asked.startswith(self._path) and asked[len(self._path) :][:1] in ("", "/")

    def answer(self, environ: dict[str, Any], context: Any, handler: Handler) -> Any:
        """Answer such a request."""
        context.request.disable_error_pages()  # the pages have their own
        inside = _Inside(environ, context, handler)
        below = {
            **environ,
            "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + self._path,
            "PATH_INFO": environ["PATH_INFO"][len(self._path) :],
            _ASK: inside.has,
            _TRANSLATE: inside.translations,
        }
        return LocalRequest(below).get_response(self._web)

    @contextmanager
    def visited_by(self, environ: dict[str, Any]) -> Iterator[None]:
        """Render the elements in the block for the user of *environ*."""

        def visitor() -> Visitor:
            # Inside a controller: the permissions of the user are in the environ by now.
            has = lambda name: bool(has_permission(name).is_met(environ))  # noqa: E731
            base = base_of(environ) + self._path
            return Visitor(self._rights({**environ, _ASK: has}), base, _translations)

        token = visitor_var.set(visitor)
        try:
            yield
        finally:
            visitor_var.reset(token)

    def _rights(self, environ: dict[str, Any]) -> Rights:
        has: HasPermission = environ[_ASK]
        options = self._options
        readers = options.web_readonly_permission
        return Rights(
            user_of(environ),
            may_view=lambda: readers is not None and has(readers),
            may_act=lambda: has(options.web_permission),
        )


class _Inside:
    """What the application's own wrappers find out about a request to the pages."""

    def __init__(self, environ: dict[str, Any], context: Any, handler: Handler) -> None:
        self._environ = environ
        self._context = context
        self._handler = handler
        self._knows_language = False

    def has(self, name: str) -> bool:
        """Whether the user has a permission."""
        found = []

        def controller(inner: dict[str, Any], _context: Any) -> Any:
            found.append(bool(has_permission(name).is_met(inner)))
            return Response()

        self._handler(controller, self._environ, self._context)
        self._knows_language = True
        return found == [True]

    def translations(self) -> Any:
        """The catalogue of the application in the language of the user; where no wrapper was
        asked, which may know it from the session, in that of the browser."""
        context = self._context
        if not self._knows_language and asbool(context.config.get("i18n.enabled", False)):
            languages = map(sanitize_language_code, context.request.languages)
            set_request_lang(list(languages), tgl=context)
        self._knows_language = True
        return context.translator


def _translations() -> Any:
    """The catalogue of the application in the language of the present request."""
    try:
        return request_context._current_obj().translator
    except TypeError:  # the body is made while it is sent, and the request is over
        return None


def pages_of(queue: JobQueue) -> WebPages | None:
    """Return what serves the pages of *queue*; None if ``web_path`` is none, and without the extra
    ``web``."""
    path = queue.options.web_path
    return WebPages(queue, path) if is_installed and path is not None else None


def provide_element(config: dict[str, Any]) -> None:
    """Give ``asyncjob_progress`` to all templates of an application, beside what its own
    ``variable_provider`` gives."""
    own = config.get("variable_provider")
    if isinstance(own, _Variables):
        return
    config["variable_provider"] = _Variables(own)


class _Variables:
    """The ``variable_provider`` of an application. own: the one that it had, or None."""

    def __init__(self, own: Callable[[], dict[str, Any]] | None) -> None:
        self._own = own

    def __call__(self) -> dict[str, Any]:
        own = self._own() if self._own else {}
        return {"asyncjob_progress": asyncjob_progress if is_installed else _missing, **own}


def _missing(*_args: object, **_kwargs: object) -> None:
    raise MissingExtra("asyncjob_progress", "web")
