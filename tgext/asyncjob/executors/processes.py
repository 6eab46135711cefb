"""The standard library's process pool, with exceptions that always come back.

There, an exception that cannot be unpickled breaks the pool, and one that cannot be pickled is
lost to the error that pickling it raised. Slackers' ProcessWorker is one: its calls are many
and short, so that a new process for each, as in ``newprocess.py``, would cost more than they do.
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
    """Runs each call in one of some processes.

    max_workers: how many; None: as many as there are cores.
    mp_context: of ``multiprocessing``; None: one that forks no process that may have threads.
    """

    def __init__(self, max_workers: int | None = None, mp_context: Any = None) -> None:
        if mp_context is None:
            # Never fork: a lock that another thread of ours holds is held in the child for ever.
            method = "spawn" if sys.platform == "win32" else "forkserver"
            mp_context = multiprocessing.get_context(method)
        super().__init__(max_workers, mp_context)

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run the call there; what cannot be pickled is in the future, as a RemoteError if it
        is an exception. Raises RuntimeError after ``shutdown``."""
        return super().submit(calling, fn, *args, **kwargs)
