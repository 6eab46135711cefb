"""The job context: what a job keeps of its request, and the TurboGears context it runs in.

In a job ``tg.config``, ``tg.app_globals``, ``tg.url``, translations and templates work as in the
request that enqueued it, in its language and under its address. Who asked is kept as
``TaskResult.enqueued_by``; no user is logged in.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, cast

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

#: Where a request keeps what its first job captured, for those that follow.
KEPT = "tgext.asyncjob.captured"

_captured: ContextVar[dict[str, Any] | None] = ContextVar("asyncjob_captured", default=None)


class TurboGearsJobContext:
    """``capture`` and ``enter`` of one application's jobs."""

    def __init__(self, app: Any, queue: JobQueue) -> None:
        self._app = app
        self._queue = queue
        self._warned = False

    def capture(self) -> dict[str, Any] | None:
        """Keep user, language, request id and address of the request, if there is one.

        A job that enqueues another hands on what was kept for itself.
        """
        handed_on = _captured.get()
        if handed_on is not None:
            return handed_on
        # With debug = true the context of a failed request stays on its thread; inside the
        # wrapper it is the one that is being served.
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
            "user": (identity or {}).get("repoze.who.userid") or environ.get("REMOTE_USER"),
            "lang": getattr(translator, "tg_lang", None),
            "request_id": environ.get("HTTP_X_REQUEST_ID"),
            "base_url": local.request.application_url,
        }
        environ[KEPT] = identity, translator, captured
        return captured

    def is_here(self) -> bool | None:
        """Whether this thread is in a context of the application, a test's too; None: it is in
        that of none."""
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


class _JobContext:
    """Runs the block with a TurboGears context of its own."""

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
    """Stands where TurboGears looks for ``request``, ``translator`` and the like.

    They are made when one of them is first asked for: most jobs ask for none, and making them
    takes longer than all else that the worker does for a job.
    """

    def __init__(self, app: Any, captured: dict[str, Any], address: str) -> None:
        # Past our own __setattr__, which is TurboGears'.
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
    """Make what TurboGears makes for a request to *address*."""
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
    # TurboGears' BalancedSession would read from a replica, which may not have the row yet that
    # the job is about.
    made.request._fast_setattr("_tg_force_sqla_engine", "master")
    return made
