"""Where a call can be run: each is a ``concurrent.futures.Executor``, nothing added.

The thread and process pools are the standard library's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra
from .coroutine import CoroutineExecutor
from .inline import InlineExecutor
from .looppool import LoopPoolExecutor
from .newprocess import NewProcessExecutor
from .processes import ProcessExecutor
from .store import StoreExecutor

if TYPE_CHECKING:
    from .hook import HttpHook as HttpHook
    from .http import HttpExecutor as HttpExecutor

__all__ = [
    "CoroutineExecutor",
    "InlineExecutor",
    "LoopPoolExecutor",
    "NewProcessExecutor",
    "ProcessExecutor",
    "StoreExecutor",
]

#: Not in ``__all__``: a star import must not need the packages of the extra.
_HTTP = {"HttpExecutor": ".http", "HttpHook": ".hook"}


def __getattr__(name: str) -> Any:
    """Load what speaks HTTP when it is first asked for: the rest runs without its packages."""
    if name not in _HTTP:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(importlib.import_module(_HTTP[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("urllib3", "itsdangerous"):
            raise
        raise MissingExtra(f"tgext.asyncjob.executors.{name}", "http") from error
    globals()[name] = found
    return found
