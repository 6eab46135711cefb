"""The Celery app that carries wake-ups: a private one, or the application's own.

A private app never becomes the current app of a process, and takes part in no other package's
integration. Of an application's own app nothing is changed but that it has one task more.
"""

from __future__ import annotations

import importlib
from typing import Any

from celery.app.amqp import AMQP  # type: ignore[import-untyped]
from kombu.connection import Connection

from celery import Celery  # type: ignore[import-untyped]

from ..errors import ConfigError
from .message import broker_queue

#: What a private app needs so that a message is a wake-up and no more. A message is acknowledged
#: after the jobs that it woke: so none waits behind a busy child while another host is idle.
SETTINGS: dict[str, Any] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "result_backend": None,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    # It would interrupt commits; the claim is the guard against a message that comes again.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "worker_send_task_events": False,
    # A child loads the application, which takes longer than the 4 s that Celery waits by itself.
    "worker_proc_alive_timeout": 120.0,
}


#: Seconds between two attempts of a worker to reach its broker: at first, and at most. Celery's own
#: grow to 30 s, so that jobs would wait long after the broker's return.
RETRY_SECONDS = (0.5, 2.0)


class PromptConnection(Connection):
    """A connection that tries often to reach its broker."""

    #: whether the broker refuses one limit of unacknowledged messages for all queues
    has_limit_of_each_queue = False

    @property
    def qos_semantics_matches_spec(self) -> bool:
        return self.has_limit_of_each_queue or bool(super().qos_semantics_matches_spec)

    def ensure_connection(
        self, errback: Any = None, max_retries: int | None = None, **given: Any
    ) -> PromptConnection:
        first, most = RETRY_SECONDS
        often = {"interval_start": first, "interval_step": first, "interval_max": most}
        super().ensure_connection(errback, max_retries, **{**often, **given})  # type: ignore[no-untyped-call]
        return self


class PromptAmqp(AMQP):  # type: ignore[misc]
    """The part of an app that makes its connections."""

    Connection = PromptConnection


class PrivateApp(Celery):  # type: ignore[misc]
    """An app with one broker and no store of results, whatever the environment says: its variables
    are for the application's own use of Celery."""

    backend_cls = "disabled"
    only_broker: str | None = None

    def connection_for_read(self, url: str | None = None, **given: Any) -> Any:
        return super().connection_for_read(self.only_broker or url, **given)

    def connection_for_write(self, url: str | None = None, **given: Any) -> Any:
        return super().connection_for_write(self.only_broker or url, **given)


def app_of(broker_url: str | None, path: str | None, prefix: str) -> Celery:
    """Return the app of *path*, MODULE:NAME; None: make a private one for *broker_url*.

    prefix: ``asyncjob.table_prefix``. Raises ConfigError if there is no app at *path*.
    """
    return _private(broker_url, prefix) if path is None else _own(path)


def _private(broker_url: str | None, prefix: str) -> Celery:
    app = PrivateApp("asyncjob", loader="app", set_as_current=False, fixups=[], amqp=PromptAmqp)
    app.only_broker = broker_url
    app.conf.update(SETTINGS)
    app.conf.broker_url = broker_url
    app.conf.task_default_queue = broker_queue(prefix, "default")
    return app


def _own(path: str) -> Celery:
    module_name, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or " "):
            raise
        raise ConfigError(
            f"asyncjob.celery_app = {path}: there is no module {error.name!r}"
        ) from None
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Celery):
        raise ConfigError(
            f"asyncjob.celery_app = {path}: expected a Celery app, got {type(found).__name__}"
        )
    return found
