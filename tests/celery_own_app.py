"""An application's own Celery app, whose Redis gives messages again after some seconds."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals  # type: ignore[import-untyped]

#: Seconds after which a message that is not acknowledged is given again, looked for each second.
VISIBILITY_SECONDS = 5

app: Any = Celery("own", broker=os.environ.get("TEST_BROKER"), set_as_current=False)
app.conf.update(
    broker_transport_options={
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    worker_prefetch_multiplier=1,
    worker_proc_alive_timeout=60.0,
    task_create_missing_queue_type=os.environ.get("TEST_QUEUE_TYPE", "classic"),
)


@app.task  # type: ignore[untyped-decorator]
def other() -> None:
    """A task of the application's own."""


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def acknowledge_early(**_: Any) -> None:
    """Where the test wants it: lose the message of a job whose child is killed."""
    if os.environ.get("TEST_ACKNOWLEDGED") == "early":
        app.tasks["asyncjob.run"].acks_late = False
