"""Wake-ups by a message broker: where ``asyncjob.engine`` is celery.

A message says "claim from this queue" and nothing else. It may be lost, late, doubled or forged:
the row of a job is the truth. This package publishes; ``fleet`` receives.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import MissingExtra
from ..options import Options


class Publisher(Protocol):
    """Publishes wake-ups. Any thread may call any method."""

    def publish(self, queue_names: Sequence[str]) -> None:
        """Publish one message for each queue. Raises what the broker raises, soon."""

    def close(self) -> None: ...

    def after_fork(self) -> None: ...


def make_publisher(options: Options) -> Publisher | None:
    """Return what publishes the wake-ups of a queue; None where its workers need none.

    Raises MissingExtra without Celery, and ConfigError for a ``celery_app`` that is none.
    """
    if options.engine != "celery":
        return None
    app = app_of(options.broker_url, options.celery_app, options.table_prefix)
    made: Publisher = _module("publisher").BrokerPublisher(
        app, options.table_prefix, options.broker_url
    )
    return made


def app_of(broker_url: str | None, path: str | None, prefix: str) -> Any:
    """Return the Celery app of *path*, MODULE:NAME; None: a private one for *broker_url*.

    prefix: ``asyncjob.table_prefix``. Raises MissingExtra without Celery, and ConfigError if there
    is no app at *path*.
    """
    check_installed(broker_url)
    return _module("app").app_of(broker_url, path, prefix)


def check_installed(broker_url: str | None) -> None:
    """Raise MissingExtra if Celery, or what it needs for this broker, is not installed."""
    needs = ["celery"]
    if (broker_url or "").startswith(("redis", "sentinel")):
        needs.append("redis")
    if any(importlib.util.find_spec(name) is None for name in needs):
        raise MissingExtra("asyncjob.engine = celery", "celery")


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
