"""Receives messages from the queues of a broker, of whatever kind they are.

RabbitMQ before 4 has a limit of unacknowledged messages for a whole worker, which Celery prefers,
and which a quorum queue refuses with an error of the connection. Celery knows such queues by its
own settings only; where they are the default of a virtual host, the broker's error tells.

On Redis kombu returns and acknowledges messages over connections that it has closed, and fails by
an AttributeError (celery 5.7.0). That would end the worker at most ends of a broker. Here nothing
depends on a message: its row says what has become of a job.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.consumer import Consumer  # type: ignore[import-untyped]

log = logging.getLogger(__name__)

#: AMQP's code of an error: not implemented.
NOT_IMPLEMENTED = 540


class FleetConsumer(Consumer):  # type: ignore[misc]
    """Celery's part that receives, for a private app."""

    is_refused = False  # whether the broker has refused one limit for all queues

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # those after which it connects again, and of an acknowledgement those that are only logged
        self.connection_errors: Any = (*self.connection_errors, AttributeError)

    def connect(self) -> Any:
        connection = super().connect()
        connection.has_limit_of_each_queue = self.is_refused
        return connection

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if getattr(exc, "reply_code", None) == NOT_IMPLEMENTED and not self.is_refused:
            log.info("the broker has quorum queues: each has a limit of messages of its own")
            self.is_refused = True
        try:
            super().on_connection_error_after_connected(exc)
        except self.connection_errors as error:
            log.warning("cannot close the lost connection to the broker: %r", error)
