"""Makes the queue current for each request, and declares whether its transaction is committed.

The wrapper is outside TurboGears' transaction, so that this also holds in the hooks of its commit.
An error page is another request, with a transaction of its own. The pages of the package are served
here: they need nothing of what is inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from tg.appwrappers.base import ApplicationWrapper
from tg.appwrappers.transaction_manager import TransactionApplicationWrapper
from tg.jsonify import encode as json_encode
from tg.support.converters import asbool

from ..queue import JobQueue
from ..task_result import TaskResult
from . import debug_panel
from .web_pages import pages_of


class JobQueueWrapper(ApplicationWrapper):  # type: ignore[misc]
    """See the module; TurboGears makes it together with the application."""

    def __init__(self, handler: Callable[..., Any], config: dict[str, Any]) -> None:
        super().__init__(handler, config)
        self._queue: Any = getattr(config.get("tg.app_globals"), "asyncjob_queue", None)
        self._managed = is_transaction_managed(config)
        self._config = config
        self._pages = pages_of(self._queue) if isinstance(self._queue, JobQueue) else None

    @property
    def injected(self) -> bool:
        return isinstance(self._queue, JobQueue)

    def __call__(self, controller: Any, environ: dict[str, Any], context: Any) -> Any:
        queue = self._queue
        queue.serve()
        pages = self._pages
        if pages is not None and pages.has(environ):
            return pages.answer(environ, context, self.next_handler)
        # repoze.tm2 around the whole application commits as well.
        managed = self._managed or "repoze.tm.active" in environ
        with self._current(environ), queue.in_transaction(managed):
            response = self.next_handler(controller, environ, context)
            body = getattr(response, "app_iter", None)
            if isinstance(body, TaskResult):
                # TurboGears makes this of an @expose('json') that returns anything but a dict.
                response.text = json_encode(body)
            elif body is not None and not _is_made(body, environ):
                current = partial(self._current, environ)
                response.app_iter = _Streamed(body, current, queue, "repoze.tm.active" in environ)
        return response

    @contextmanager
    def _current(self, environ: dict[str, Any]) -> Iterator[None]:
        """Make the queue current, and the user of *environ* the one that elements are for."""
        visited = nullcontext() if self._pages is None else self._pages.visited_by(environ)
        is_noted = debug_panel.is_used(self._config)
        noted = debug_panel.recorded(environ) if is_noted else nullcontext()
        with self._queue.as_current(), visited, noted:
            yield


def _is_made(body: object, environ: dict[str, Any]) -> bool:
    """Whether no code of the application runs while *body* is sent."""
    file_wrapper = environ.get("wsgi.file_wrapper")  # the server needs its own class
    return isinstance(body, (list, tuple)) or (
        isinstance(file_wrapper, type) and isinstance(body, file_wrapper)
    )


class _Streamed:
    """A body that is generated while it is sent, with the queue as the current one.

    That is after TurboGears' commit, so that it enqueues jobs at once; but before the commit of
    repoze.tm2 (*managed*).
    """

    def __init__(
        self,
        body: Iterable[bytes],
        current: Callable[[], AbstractContextManager[None]],
        queue: JobQueue,
        managed: bool,
    ) -> None:
        self._body = body
        self._current = current
        self._queue = queue
        self._managed = managed

    def __iter__(self) -> Iterator[bytes]:
        with self._current():
            steps = iter(self._body)
        while True:
            with self._current(), self._queue.in_transaction(self._managed):
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._current(), self._queue.in_transaction(self._managed):
                close()


def is_transaction_managed(config: dict[str, Any]) -> bool:
    """Whether TurboGears commits the transaction of each request of this application."""
    wrappers = [wrapper for _, wrapper in config.get("application_wrappers", ())]
    return TransactionApplicationWrapper in wrappers and asbool(config.get("tm.enabled", False))
