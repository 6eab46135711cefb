"""The standard library's process pool, with exceptions that always come back.

In that pool, an exception that cannot be unpickled breaks the pool, and one that cannot be pickled
is replaced by the error of pickling. Slackers' ProcessWorker uses this executor: its calls are many
and short, and a new process for each, as in ``newprocess.py``, would take longer than they do.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

from .remote_errors import calling

Result = TypeVar("Result")


class ProcessExecutor(ProcessPoolExecutor):
    """Runs each call in a process of a pool.

    max_workers: how many; None: as many as there are cores.
    mp_context: of ``multiprocessing``; None: one that does not fork a process with threads.
    """

    def __init__(self, max_workers: int | None = None, mp_context: Any = None) -> None:
        if mp_context is None:
            # Not fork: a lock that another thread holds would be held in the child for ever.
            method = "spawn" if sys.platform == "win32" else "forkserver"
            mp_context = multiprocessing.get_context(method)
        super().__init__(max_workers, mp_context)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run the call in a process. Raises RuntimeError after ``shutdown``.

        The future raises the error of pickling if the call or the result cannot be pickled, and
        RemoteError for an exception that cannot.
        """
        return super().submit(calling, fn, *args, **kwargs)
