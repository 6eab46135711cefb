"""Worker processes with an event loop each, and the messages that go to and fro.

What ``looppool.Pool`` and ``LoopPoolExecutor`` have in common. From the bottom: ``channel``
carries frames; ``slot`` and ``station`` are the two ends of one worker, in the parent and in its
process; ``lookout`` is what the parent waits for; ``crew`` is all workers together.
"""

from queue import Full

from .pool import Crew
from .settings import Listener, Terms, pack, unpack
from .worker_handle import Parcel
from .worker_loop import Factory, Post, Station

__all__ = [
    "Crew",
    "Factory",
    "Full",
    "Listener",
    "Parcel",
    "Post",
    "Station",
    "Terms",
    "pack",
    "unpack",
]
