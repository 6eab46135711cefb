"""The seed package Slacker: record operations on an object, and run them elsewhere.

    Slacker(shutil, ThreadWorker()).copy("a", "b")    -> a Postponed: nothing is copied yet
    await postponed   (or yield it in a @process, or .fetch(), or .proceed(callback))

A worker is any ``concurrent.futures.Executor``. This package records, and reports the outcome; what
is recorded is a chain, see ``executors/chain.py``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .outcome import Fetched
from .postponed import Postponed, Slacker
from .steps import process
from .workers import DummyWorker, ProcessWorker, ThreadWorker

if TYPE_CHECKING:
    from .django_backend import DjangoWorker as DjangoWorker
    from .remote import HttpHook as HttpHook
    from .remote import HttpWorker as HttpWorker

__all__ = [
    "DummyWorker",
    "Fetched",
    "Postponed",
    "ProcessWorker",
    "Slacker",
    "ThreadWorker",
    "process",
]

#: Not in ``__all__``: a star import must not need the packages of the extra "http".
_REMOTE = {"DjangoWorker": ".django_backend", "HttpHook": ".remote", "HttpWorker": ".remote"}


def __getattr__(name: str) -> Any:
    """Load the classes for HTTP at their first use: the others do not need their packages."""
    if name not in _REMOTE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_REMOTE[name], __name__), name)
    globals()[name] = found
    return found
