"""The TurboGears floor: how a queue gets into an application, and a request into a job.

Below it nothing imports ``tg``.
"""

from .plug import plugme, start_async_worker

__all__ = ["plugme", "start_async_worker"]
