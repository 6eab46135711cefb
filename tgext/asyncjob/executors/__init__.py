"""Executors: where a call runs. Each is a ``concurrent.futures.Executor``.

A pool of threads is the standard library's. A module is loaded at the first use of its executor:
few programs need all of them, and those for HTTP need packages of an extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra

if TYPE_CHECKING:
    from .coroutine import CoroutineExecutor
    from .hook import HttpHook as HttpHook
    from .http import HttpExecutor as HttpExecutor
    from .inline import InlineExecutor
    from .looppool import LoopPoolExecutor
    from .newprocess import NewProcessExecutor
    from .processes import ProcessExecutor
    from .store import StoreExecutor

__all__ = [
    "CoroutineExecutor",
    "InlineExecutor",
    "LoopPoolExecutor",
    "NewProcessExecutor",
    "ProcessExecutor",
    "StoreExecutor",
]

_MODULES = {
    "CoroutineExecutor": ".coroutine",
    "InlineExecutor": ".inline",
    "LoopPoolExecutor": ".looppool",
    "NewProcessExecutor": ".newprocess",
    "ProcessExecutor": ".processes",
    "StoreExecutor": ".store",
}

#: Not in ``__all__``: a star import must not need the packages of the extra.
_HTTP_MODULES = {"HttpExecutor": ".http", "HttpHook": ".hook"}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name) or _HTTP_MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(importlib.import_module(module, __name__), name)
    except ModuleNotFoundError as error:
        if name not in _HTTP_MODULES or error.name not in ("urllib3", "itsdangerous"):
            raise
        raise MissingExtra(f"tgext.asyncjob.executors.{name}", "http") from error
    globals()[name] = found
    return found
