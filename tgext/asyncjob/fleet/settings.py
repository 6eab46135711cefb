"""What the parent must know of the application, which it does not load."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..queue import JobQueue
from ..wakeups import app_of

#: Where the class is that receives the messages of a private app.
CONSUMER = "tgext.asyncjob.fleet.consumer:FleetConsumer"


class FleetSettings(NamedTuple):
    """See the options of the same names; plain data, to be sent through a pipe."""

    broker_url: str | None
    celery_app: str | None
    table_prefix: str
    drain_timeout: float
    #: names of the queues to serve; None: all
    queues: list[str] | None
    #: names of queues that are known now; of those to serve
    known: list[str]

    def make_app(self) -> Any:
        """Return the Celery app. The settings of an application's own are left alone."""
        app = app_of(self.broker_url, self.celery_app, self.table_prefix)
        if self.celery_app is None:
            app.conf.worker_consumer = CONSUMER
            app.conf.worker_soft_shutdown_timeout = self.drain_timeout
            # Handlers that are there are those of the .ini file.
            app.conf.worker_hijack_root_logger = not logging.getLogger().handlers
        return app


def settings_of(queue: JobQueue) -> FleetSettings:
    """Return the settings of an application's queue; raises ConfigError, MissingExtra."""
    options = queue.options
    if options.engine != "celery":
        raise ConfigError(
            f"expected asyncjob.engine = celery for workers on Celery, got asyncjob.engine = "
            f"{options.engine}; set it, and asyncjob.broker_url, or start asyncjob-worker"
        )
    backend: Any = queue.backend
    known = {"default", *backend.relay.known_queues()}
    return FleetSettings(
        options.broker_url,
        options.celery_app,
        options.table_prefix,
        options.drain_timeout,
        None if options.queues is None else list(options.queues),
        sorted(known if options.queues is None else options.queues),
    )
