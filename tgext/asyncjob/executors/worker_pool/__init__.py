"""A pool of worker processes with an event loop each, which exchange messages with the parent.

``looppool.Pool`` and ``LoopPoolExecutor`` are made of it. From the bottom: ``channel`` sends and
receives frames; ``worker_handle`` and ``worker_loop`` are the two ends of one worker, in the parent
and in its process; ``monitor`` waits for events of all workers; ``pool`` is all workers together.
"""

from queue import Full

from .pool import MessagePool
from .settings import PoolOptions, pack, unpack
from .worker_handle import Envelope
from .worker_loop import WorkerEndpoint

__all__ = [
    "Envelope",
    "Full",
    "MessagePool",
    "PoolOptions",
    "WorkerEndpoint",
    "pack",
    "unpack",
]
