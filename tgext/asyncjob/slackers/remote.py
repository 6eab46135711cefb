"""The worker that runs chains on another server, and the hook of that server."""

from __future__ import annotations

from ..executors import HttpExecutor, HttpHook

__all__ = ["HttpHook", "HttpWorker"]


class HttpWorker(HttpExecutor):
    """Runs chains on the server that has an ``HttpHook`` with the same secret at *path*.

    The server finds the object of a chain by its name. Arguments and result are pickled: return as
    little as possible.
    """
