"""The job context: what is stored of the request, and the TurboGears context that the job runs in.

In a job ``tg.config``, ``tg.app_globals``, ``tg.url``, translations and templates work as in the
request that enqueued it, with its language and address. Its user is ``TaskResult.enqueued_by``; in
the job no user is logged in.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, cast
from urllib.parse import quote

import tg
from tg.i18n import _get_translator
from tg.request_local import context as request_context
from tg.support.registry import Registry
from webob.request import environ_from_url

from ..current import queue_var
from ..queue import JobQueue

log = logging.getLogger(__name__)

#: What ``tg.url(qualified=True)`` begins with in a job that no request enqueued.
NO_REQUEST = "http://localhost"

#: Characters of a request's path that are kept with its jobs.
LONGEST_PATH = 200

#: The key in a request's environ for what its first job captured; the next jobs reuse it.
KEPT = "tgext.asyncjob.captured"

_captured: ContextVar[dict[str, Any] | None] = ContextVar("asyncjob_captured", default=None)


def user_of(environ: dict[str, Any]) -> str | None:
    """Return the user who is logged in, whose id may be a number or a UUID; None: there is none.
    Some servers have an empty REMOTE_USER then."""
    identity = environ.get("repoze.who.identity") or {}
    found = identity.get("repoze.who.userid")
    return str(environ.get("REMOTE_USER") or "" if found is None else found) or None


class TurboGearsJobContext:
    """``capture`` and ``enter`` of one application's jobs."""

    def __init__(self, app: Any, queue: JobQueue) -> None:
        self._app = app
        self._queue = queue
        self._warned = False

    def capture(self) -> dict[str, Any] | None:
        """Return user, language, method, path, id and address of the request; None without one.

        A job that is enqueued by another job gets what was captured for that one.
        """
        handed_on = _captured.get()
        if handed_on is not None:
            return handed_on
        # With debug = true the context of a failed request remains in its thread. Inside the
        # wrapper it is that of the present request.
        if queue_var.get() is not self._queue:
            return None
        try:
            local = request_context._current_obj()
        except TypeError:
            return None
        environ = local.request.environ
        identity, translator = environ.get("repoze.who.identity"), local.translator
        kept = environ.get(KEPT)
        if kept is not None and kept[0] is identity and kept[1] is translator:
            return cast("dict[str, Any]", kept[2])
        self._warn_of_processes(environ)
        captured = {
            "user": user_of(environ),
            "lang": getattr(translator, "tg_lang", None),
            "request": line_of(environ),
            "request_id": environ.get("HTTP_X_REQUEST_ID"),
            "base_url": local.request.application_url,
        }
        environ[KEPT] = identity, translator, captured
        return captured

    def is_here(self) -> bool | None:
        """Whether this thread is in a context of the application, which may be a test's; None: it
        is in a context of no application."""
        try:
            return bool(request_context._current_obj().app_globals is self._app.globals)
        except TypeError:
            return None

    def _warn_of_processes(self, environ: dict[str, Any]) -> None:
        if self._warned or self._queue.backend.name != "memory":
            return
        if environ.get("wsgi.multiprocess"):
            self._warned = True
            log.warning(
                "this application is served by several processes and asyncjob.backend is memory: "
                "the others will not know this job (UnknownJob); set asyncjob.backend = sql"
            )

    def enter(self, captured: dict[str, Any]) -> AbstractContextManager[Any]:
        """Run a job in a TurboGears context made for it."""
        address = self._queue.options.base_url or captured.get("base_url") or NO_REQUEST
        return _JobContext(self._app, captured, address)


def line_of(environ: dict[str, Any]) -> str:
    """Return method and path of a request, without the query, which may have secrets."""
    path = quote(environ.get("PATH_INFO", "").encode("latin-1"))
    return f"{environ['REQUEST_METHOD']} {path[:LONGEST_PATH]}"


class _JobContext:
    """A context manager with a TurboGears context of its own."""

    def __init__(self, app: Any, captured: dict[str, Any], address: str) -> None:
        self._config = app.config
        self._captured = captured
        self._locals = _LazyLocals(app, captured, address)

    def __enter__(self) -> None:
        self._token = _captured.set(self._captured)
        tg.config._push_object(self._config)
        request_context._push_object(self._locals)

    def __exit__(self, *_error: object) -> None:
        request_context._pop_object()
        tg.config._pop_object()
        _captured.reset(self._token)


class _LazyLocals:
    """The locals of a TurboGears context: ``request``, ``translator`` and others.

    They are made at the first access to one of them: most jobs use none, and to make them takes
    longer than everything else that the worker does for a job.
    """

    def __init__(self, app: Any, captured: dict[str, Any], address: str) -> None:
        # Not by setattr(), which sets attributes of the locals of TurboGears.
        vars(self).update(_make=lambda: _request_locals(app, captured, address))

    def __getattr__(self, name: str) -> Any:
        if name == "_made":
            vars(self)["_made"] = made = self._make()
            return made
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._made, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._made, name, value)


def _request_locals(app: Any, captured: dict[str, Any], address: str) -> Any:
    """Make the locals that TurboGears makes for a request to *address*."""
    environ = environ_from_url(address)
    environ["SCRIPT_NAME"] = environ["PATH_INFO"].rstrip("/")
    environ["PATH_INFO"] = "/"
    registry = environ["paste.registry"] = Registry()
    registry.prepare()
    _, made, _ = app._setup_app_env(environ)
    registry.cleanup()  # it stays behind ours, and not in its place
    if captured.get("lang"):
        made.translator = _get_translator(captured["lang"], tgl=made, fallback=True)
    made.request._fast_setattr("identity", None)
    # Otherwise TurboGears' BalancedSession reads from a replica, which may not have the rows yet
    # that the job needs.
    made.request._fast_setattr("_tg_force_sqla_engine", "master")
    return made
