"""The seed package Looppool: a pool of processes with an event loop each, which exchange messages.

A message is not a call: a method of the worker handles it on the worker's loop, and reports when it
is done. Results are messages too; a worker may send any number of them. The processes, their
messages and the consequences of a worker's death are in ``executors/worker_pool``.
"""

from .pool import Pool
from .worker import Worker, task_done

__all__ = ["Pool", "Worker", "task_done"]
