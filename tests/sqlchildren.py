"""A process that has imported everything and opened nothing, from which children are forked.

A fresh interpreter takes half a second to import what a worker needs; a fork of one that has no
thread and no connection takes milliseconds, and is as real a process. Run as a program it is that
process: it reads requests as JSON lines, and answers each with a line.

    test --> {"run": "module:function", "arguments": {...}} --> forks --> pid
    test --> {"wait": pid}                                  --> waits --> status
    test --> {"prepare": "module:function", ...}            --> runs it itself
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

#: What SQLAlchemy imports in each child otherwise: those of the tables, and the drivers.
DIALECTS = ("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql",
            "sqlalchemy.dialects.mysql.pymysql", "psycopg", "pymysql")  # fmt: skip


class ForkServer:
    """Forks children that run a function of a module; *modules* are imported once for all.

    variables: more of them for the environment.
    """

    def __init__(self, *modules: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def start(self, function: str, **arguments: Any) -> int:
        """Run ``module:function`` in a child; return its pid, which is its own till ``wait``."""
        return self._ask({"run": function, "arguments": arguments})

    def wait(self, pid: int) -> int:
        """Wait for a child's end; its exit status, or the negative number of a signal."""
        return self._ask({"wait": pid})

    def run(self, function: str, **arguments: Any) -> int:
        """Start a child and wait for its end."""
        return self.wait(self.start(function, **arguments))

    def prepare(self, function: str, **arguments: Any) -> None:
        """Run ``module:function`` in the process itself, so that its children have what that
        leaves in memory; it must leave no thread and no connection."""
        answer = self._ask({"prepare": function, "arguments": arguments})
        assert answer == 1, f"expected one thread, got {answer}"

    def _ask(self, request: dict[str, Any]) -> int:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the process that forks children has ended"
        return int(answer)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, _type: type | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._process.communicate()  # its input ends, and so does it
        assert self._process.returncode == 0


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            answer = os.fork() or _child(**request)
        elif "prepare" in request:
            _function(request["prepare"])(**request["arguments"])
            answer = threading.active_count()
            _keep()
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _child(run: str, arguments: dict[str, Any]) -> int:
    status = 1
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):  # the conversation is its parent's
            os.dup2(nowhere, descriptor)
        status = _function(run)(**arguments) or 0
    except BaseException:  # noqa: BLE001 - it must not go on to serve
        traceback.print_exc()
    os._exit(status)


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _keep() -> None:
    """A collection in a child would copy all that is there."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    for each in (*DIALECTS, *sys.argv[1:]):
        importlib.import_module(each)
    _keep()
    _serve()
