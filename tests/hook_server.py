"""A real HTTP server in this process, for the WSGI application of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

PATIENCE_SECONDS = 20.0


@contextmanager
def served(application: Callable[..., Any], threads: int = 4) -> Iterator[str]:
    """Serve *application* on a free port of 127.0.0.1 and give ``host:port``."""
    sockets: dict[int, Any] = {}
    server = create_server(application, map=sockets, host="127.0.0.1", port=0, threads=threads)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            wasyncore.loop(timeout=PATIENCE_SECONDS, map=sockets, count=1)

    thread = threading.Thread(target=serve, name="test-server")
    thread.start()
    try:
        yield f"127.0.0.1:{server.effective_port}"
    finally:
        stopping.set()
        server.pull_trigger()
        thread.join(PATIENCE_SECONDS)
        server.task_dispatcher.shutdown()
        wasyncore.close_all(sockets)
        assert not thread.is_alive(), "the server did not stop"
