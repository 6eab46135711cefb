"""The server of ``multiprocessing`` that forks processes, with what the tests run in them imported.

A process that it forks then takes 4 ms, and 100 ms where it imports the executors for itself. What
is to be imported the server does not find by the path of the process that starts it, but only by
PYTHONPATH; and it says nothing of what it has not found.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any

import pytest

IMPORTS = (
    "executor_contract", "tgext.asyncjob.executors.newprocess",
    "tgext.asyncjob.executors.processes", "concurrent.futures.process",
    "multiprocessing.synchronize", "multiprocessing.popen_forkserver",
)  # fmt: skip


_server: Any = forkserver._forkserver  # type: ignore[attr-defined]

#: The pids of those that were started here, and what each imports.
_imported: dict[int, set[str]] = {}


def serving_context(*modules: str) -> BaseContext:
    """Return the context that uses it; start it anew if others have started it.

    modules: more of what it imports.
    """
    wanted = {*IMPORTS, *modules}
    context = multiprocessing.get_context("forkserver")
    if not wanted <= _imported.get(_server._forkserver_pid, set()):
        _server._stop()
        context.set_forkserver_preload(list(wanted))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
            forkserver.ensure_running()
        _imported[_server._forkserver_pid] = wanted
    return context
