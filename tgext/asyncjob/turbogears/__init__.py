"""The TurboGears integration: gives an application its queue, and a job the context of its request.

No other part of the package imports ``tg``.
"""

from .plug import plugme, start_async_worker
from .slow_action import background

__all__ = ["background", "plugme", "start_async_worker"]
