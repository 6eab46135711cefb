"""Python programs in processes that are forked from one that has imported everything.

A fresh interpreter takes 0.3 to 0.9 s to import what a worker or a command needs; a fork of one
that has imported it, and has no thread, connection or queue, takes milliseconds. ``ForkedPython``
is a ``subprocess.Popen`` of such a process.

    test --> command, directory, environment, the three streams --> fork server
    fork server --> forks a process, which forks the program's, says its pid, and ends
    kernel --> gives the program's process to the test's, in this moment a "subreaper"

So the program's process is a child of the test's like any other: it is waited for, stopped and
killed by its pid, and its exit status is its own. What it does not do anew are the imports: what
a program does while it is imported, and what an interpreter reads at its start, needs a real one.
"""

from __future__ import annotations

import atexit
import ctypes
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import fork_server as server_program
from fork_server import MOST_BYTES

#: Of Linux's prctl(): orphans among this process's descendants become its children.
_PR_SET_CHILD_SUBREAPER = 36

#: What ``python -m tgext.asyncjob`` imports in the end, whichever its command and database.
OF_COMMANDS = (
    "tgext.asyncjob.__main__ tgext.asyncjob.backends.sql tgext.asyncjob.transactions.sessions"
    " sqlalchemy.dialects.sqlite sqlalchemy.dialects.postgresql psycopg"
    " sqlalchemy.dialects.mysql.pymysql pymysql"
)

#: What a gearbox command of an application imports, before that.
OF_GEARBOX = f"gearbox.main tg tgext.asyncjob.turbogears {OF_COMMANDS}"

#: What a server of such an application imports; gunicorn looks at its start which folder it is in.
OF_SERVERS = f"concurrent.futures.thread hupper logging.config paste.deploy ssl {OF_GEARBOX}"

_EXECUTE = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]

#: What is said to Popen and a forked process can follow; other things must not be said.
_STREAMS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_VARIABLES = (
    "PYTHON",  # make's: no interpreter looks at it
    "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED",
)  # fmt: skip
_FOLLOWED = {*_STREAMS, "args", "cwd", "env", "start_new_session", "close_fds", "restore_signals"}
_NOT_SAID = {"creationflags": 0, "pass_fds": (), "umask": -1, "process_group": -1, "shell": False}


class ForkedPython(subprocess.Popen):  # type: ignore[type-arg]
    """Run ``[sys.executable, "-W", ..., "-m" or "-c" or a path, ...]`` in a forked process.

    imports: names of modules, separated by spaces, which the fork server imports. There is one
    for each such text and each kind of options; none of the modules may start a thread. serves:
    whether the process gets a fork server, for those that it starts with some of these imports. The
    other arguments are Popen's. Raises ValueError for one that a forked process cannot follow.
    """

    def __init__(
        self, command: list[Any], *, imports: str, serves: bool = False, **given: Any
    ) -> None:
        self._imports, self._serves = imports, serves
        super().__init__(command, **given)

    def _execute_child(self, *values: Any) -> None:
        given = _EXECUTE.bind(self, *values).arguments
        streams = {name: given[name] for name in _STREAMS}
        del given["self"]
        others = given.keys() - _FOLLOWED
        refused = sorted(name for name in others if given[name] != _NOT_SAID.get(name))
        if refused:
            raise ValueError(f"a forked process cannot follow {', '.join(refused)}")
        command = [str(word) for word in given["args"]]
        options, program = _split(command)
        environment = dict(os.environ if given["env"] is None else given["env"])
        request = {
            "program": program,
            "command": command,
            "cwd": os.path.abspath(given["cwd"] or "."),
            "environment": environment,
            "new_session": given["start_new_session"],
            "serves": self._serves,
        }
        own = enumerate((streams["p2cread"], streams["c2pwrite"], streams["errwrite"]))
        try:
            server = fork_server(self._imports, options, os.getpid())
            server.check(environment)
            self.pid = server.fork(request, [at if at != -1 else number for number, at in own])
        finally:
            self._close_pipe_fds(*streams.values())  # type: ignore[attr-defined]
        self._child_created = True


def run_forked(
    command: list[Any], *, timeout: float = 60, **given: Any
) -> subprocess.CompletedProcess[Any]:
    """Do as ``subprocess.run(..., capture_output=True)`` does, in a forked process. given: the
    arguments of ``ForkedPython``."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **given}
    with ForkedPython(command, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


class ForkServer:
    """A process that has imported modules, and forks others: the one that was forked for this
    process, or a new one. options: of its interpreter."""

    _wait: Callable[[], object]  #: for its end

    def __init__(self, imports: str, options: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._environment = {k: v for k, v in os.environ.items() if k not in _VARIABLES}
        found = server_program.inherited
        if (
            found is not None
            and (found.owner, found.options) == (os.getpid(), options)
            and found.imports.issuperset(imports.split())
        ):
            server_program.inherited = None  # one lock for each
            self._connection, self._wait = found.connection, partial(os.waitpid, found.pid, 0)
            return
        self._connection, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = Path(__file__).with_name("fork_server.py")
        with its:
            process = subprocess.Popen(
                [sys.executable, *options, path, str(its.fileno()), *imports.split()],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
            )
        self._wait = process.wait

    def check(self, environment: dict[str, str]) -> None:
        """Raise ValueError if an interpreter would start differently in *environment*."""
        for name in environment.keys() | self._environment.keys():
            if name not in _VARIABLES and name.startswith(("PYTHON", "LANG", "LC_")):
                there, wanted = self._environment.get(name), environment.get(name)
                if there != wanted:
                    raise ValueError(f"{name} was {there!r} at the start, and is {wanted!r}")

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Return the pid of a new child of this process, which runs what *request* says."""
        message, adopted = json.dumps(request).encode(), b""
        with self._lock, suppress(ConnectionError):
            _be_subreaper(True)
            try:
                socket.send_fds(self._connection, [message], descriptors)
                pid, adopted = self._connection.recv(MOST_BYTES), self._connection.recv(MOST_BYTES)
            finally:
                _be_subreaper(False)
        if not adopted:
            raise RuntimeError("the fork server has ended; it has said why")
        return int(pid)

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._connection.close()
        self._wait()


@cache
def fork_server(imports: str, options: tuple[str, ...], _pid: int) -> ForkServer:
    """Return the fork server of this process for these."""
    made = ForkServer(imports, options)
    atexit.register(made.close)
    return made


def _split(command: list[str]) -> tuple[tuple[str, ...], list[str]]:
    if command[0] != sys.executable:
        raise ValueError(f"expected {sys.executable}, got {command[0]}")
    first = 1
    while command[first] == "-W":
        first += 2
    if command[first].startswith("-") and command[first] not in ("-m", "-c"):
        raise ValueError(f"a forked process cannot follow {command[first]}")
    return tuple(command[1:first]), command[first:]


def _be_subreaper(yes: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
