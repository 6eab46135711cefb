"""Publishes wake-ups by Celery's protocol, on one connection of its own.

It is called by background threads only (``Notifier``, ``Relay``), never by a request. Each step
takes at most TIMEOUT_SECONDS; after an error the connection is dropped, and for a moment nothing is
tried at all: the relay of a worker finds what was not published.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from ..bounded import within
from .message import TASK, broker_queue

log = logging.getLogger(__name__)

#: Seconds that connecting to the broker, writing to it or reading its answer may take.
TIMEOUT_SECONDS = 1.0

#: Seconds without a further attempt after an error.
PAUSE_SECONDS = 1.0

#: For Redis and for AMQP. An AMQP broker confirms a message: without that one that it could not
#: keep would be taken for published.
_LIMITS = {
    "redis": {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "retry_on_timeout": False,
    },
    "amqp": {
        "read_timeout": TIMEOUT_SECONDS,
        "write_timeout": TIMEOUT_SECONDS,
        "connect_timeout": TIMEOUT_SECONDS,
        "confirm_publish": True,
        "max_retries": 0,
    },
}


class BrokerUnreachable(Exception):
    """Raised by ``publish`` for a moment after an error, without another attempt."""


class BrokerPublisher:
    """See ``Publisher``.

    app: a Celery app. prefix: ``asyncjob.table_prefix``. url: that of the broker; None: the app's.
    """

    def __init__(self, app: Any, prefix: str, url: str | None) -> None:
        self._app = app
        self._url = url
        self._prefix = prefix
        self._inherited: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._connection: Any = None
        self._producer: Any = None
        self._retry_at = 0.0

    def publish(self, queue_names: Sequence[str]) -> None:
        with self._lock:
            if time.monotonic() < self._retry_at:
                raise BrokerUnreachable("the broker could not be reached a moment ago")
            try:
                producer = self._producer or self._connect()
                for name in queue_names:
                    self._send(producer, name)
            except Exception:
                self._retry_at = time.monotonic() + PAUSE_SECONDS
                self._drop()
                raise

    def _send(self, producer: Any, name: str) -> None:
        amqp = self._app.amqp
        message = amqp.as_task_v2(uuid4().hex, TASK, args=[name], ignore_result=True)
        amqp.send_task_message(
            producer, TASK, message,
            queue=broker_queue(self._prefix, name),
            serializer="json",
            retry=False,
            delivery_mode=1,  # it need not survive the broker
            timeout=TIMEOUT_SECONDS,
            confirm_timeout=TIMEOUT_SECONDS,
        )  # fmt: skip

    def _connect(self) -> Any:
        url = self._url or self._app.conf.broker_write_url
        first = str(
            url if url is None or isinstance(url, str) else url[0]
        )  # an app may have several
        kind = "redis" if first.startswith(("redis", "sentinel")) else "amqp"
        self._connection = connection = self._app.connection_for_write(
            url, connect_timeout=TIMEOUT_SECONDS, transport_options=_LIMITS[kind], heartbeat=0
        )
        connection.ensure_connection(
            max_retries=1, interval_start=0, interval_step=0, timeout=TIMEOUT_SECONDS
        )
        self._producer = self._app.amqp.Producer(connection.default_channel, auto_declare=False)
        return self._producer

    def _drop(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):  # it may be what failed
                within(TIMEOUT_SECONDS, connection.release, "close a connection to the broker")

    def close(self) -> None:
        with self._lock:
            self._drop()

    def after_fork(self) -> None:
        """Begin anew. The parent's connection is kept, and never closed: that would end it there
        too."""
        self._inherited.append((self._connection, self._producer))
        self._begin()
