"""The workers that need no other package: in the calling thread, in threads, in processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ..errors import ConfigError
from ..executors import InlineExecutor, ProcessExecutor


class DummyWorker(InlineExecutor):
    """Runs a chain at once, in the calling thread, and blocks until it has ended."""


class ThreadWorker(ThreadPoolExecutor):
    """Runs chains in a pool of threads. max_workers: how many; None: as ThreadPoolExecutor."""

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and not isinstance(max_workers, int):
            raise ConfigError(
                f"expected a number of threads, got a {type(max_workers).__name__}; a pool of "
                "threads is a worker itself, if it is a concurrent.futures.Executor"
            )
        super().__init__(max_workers, thread_name_prefix="asyncjob-slacker")


class ProcessWorker(ProcessExecutor):
    """Runs chains in a pool of processes.

    The object and the arguments of a chain must be picklable, or defined in a module.
    """
