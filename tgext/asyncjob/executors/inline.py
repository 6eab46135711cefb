"""Run a call in the calling thread: the executor for tests, and the default of a Slacker."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class InlineExecutor(Executor):
    """Runs each call in the thread that submits it, before ``submit`` returns."""

    def __init__(self) -> None:
        self._shut_down = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run the call; the future that comes back is done.

        Raises RuntimeError after ``shutdown``. What the call raises is in the future; a
        KeyboardInterrupt or SystemExit is raised here as well, as in any call.
        """
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls. There is nothing to wait for or to cancel."""
        self._shut_down = True
