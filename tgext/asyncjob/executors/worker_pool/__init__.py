"""Worker processes with an event loop each, and the messages that go to and fro.

What ``looppool.Pool`` and ``LoopPoolExecutor`` have in common. From the bottom: ``channel``
carries frames; ``worker_handle`` and ``worker_loop`` are the two ends of one worker, in the parent
and in its process; ``monitor`` is what the parent waits for; ``pool`` is all workers together.
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
