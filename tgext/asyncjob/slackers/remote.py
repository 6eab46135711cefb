"""The worker that is another server, and the hook that this server has to have."""

from __future__ import annotations

from ..executors import HttpExecutor, HttpHook

__all__ = ["HttpHook", "HttpWorker"]


class HttpWorker(HttpExecutor):
    """Runs chains on the server whose ``HttpHook`` stands at *path*, under the same secret.

    What a chain is about is found there by its name, its arguments and its result are pickled:
    it is wise to return as little as possible.
    """
