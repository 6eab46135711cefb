"""The TurboGears integration: gives an application its queue, and a job the context of its request.

No other part of the package imports ``tg``.
"""

from .plug import plugme, start_async_worker

__all__ = ["plugme", "start_async_worker"]
