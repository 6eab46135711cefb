"""The seed package Looppool: a pool of processes, each with an event loop, that talk in messages.

A message is not a call: a worker's method is given it on the worker's loop and says when it is
done; results are messages too, as many as the worker likes. The processes, their queues and what
becomes of a dead worker's messages are ``executors/worker_pool``.
"""

from .pool import Pool
from .worker import Worker, task_done

__all__ = ["Pool", "Worker", "task_done"]
