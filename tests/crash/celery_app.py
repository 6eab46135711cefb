"""The Celery app of a run: it sends to one broker and receives from another, with a proxy between.

So the proxy can lose messages and double them.
"""

from __future__ import annotations

from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from tgext.asyncjob import JobQueue
from tgext.asyncjob.fleet.settings import CONSUMER
from tgext.asyncjob.wakeups.app import SETTINGS, PromptAmqp

from .place import DRAIN_SECONDS, here

app: Any = Celery("crash", set_as_current=False, fixups=[], amqp=PromptAmqp)
app.conf.update(
    SETTINGS,
    broker_write_url=here().broker_in,
    broker_read_url=here().broker_out,
    worker_soft_shutdown_timeout=DRAIN_SECONDS,
    worker_consumer=CONSUMER,
    broker_transport_options={"visibility_timeout": 5},  # of Redis: messages come again
)


def queue() -> JobQueue:
    """Make the queue of a worker."""
    from . import jobs  # noqa: F401 - so that the first of them does not wait for the import

    return here().queue(queues=here().queues)
