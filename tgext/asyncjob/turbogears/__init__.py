"""The TurboGears integration: a queue for an application, and the request's context for a job.

No module of a lower layer imports ``tg``.
"""

from .plug import plugme, start_async_worker

__all__ = ["plugme", "start_async_worker"]
