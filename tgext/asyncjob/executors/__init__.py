"""Where a call can be run: each is a ``concurrent.futures.Executor``, nothing added.

The thread and process pools are the standard library's.
"""

from .inline import InlineExecutor

__all__ = ["InlineExecutor"]
