"""The program of ``forked_python``: it imports modules once, and forks a process for each request.

It has no thread, opens nothing, and runs nothing but imports. A process that it forks sets up what
a fresh interpreter has of its own (arguments, path, environment, streams, directory), then runs
the program as ``__main__`` and ends as the interpreter does. If it is to fork others in its turn,
a second server is forked for it before: that has imported the same.

    python -W error fork_server.py 7 module module    7: the descriptor of its connection
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import io
import json
import os
import socket
import sys
import threading
from types import ModuleType
from typing import Any, NamedTuple

#: More than the environment of any process here, in one message.
MOST_BYTES = 1 << 20


class Inherited(NamedTuple):
    """A server that was forked for the process *owner*; its options, and what it has imported."""

    connection: socket.socket
    pid: int
    owner: int
    options: tuple[str, ...]
    imports: frozenset[str]


#: Of a process that a server has forked; None: it has none.
inherited: Inherited | None = None


def main() -> None:
    """Serve until the connection is closed; in a process that was forked, run its program."""
    global inherited
    connection = socket.socket(fileno=int(sys.argv[1]))
    path = sys.path[1:]  # without the folder of this file
    options, imports = tuple(sys.orig_argv[1 : -len(sys.argv)]), frozenset(sys.argv[2:])
    sys.modules["fork_server"] = sys.modules["__main__"]  # where the program finds ``inherited``
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is there stays, and a collection in a child does not copy it
    while (request := _serve(connection)) is not None:
        connection.close()
        if request["serves"]:
            own, connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                own.close()
                continue
            connection.close()
            inherited = Inherited(own, pid, os.getpid(), options, imports)
        _set_up(request, path)
        try:
            _run(request["program"])
        except SystemExit as ended:
            if not isinstance(ended.code, int | None):
                raise
            _end(ended.code or 0)
        _end(0)
    os._exit(0)  # there is nothing to tidy up


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Return a request in each new process, and None in this one at the end."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
        if not message:
            return None
        adopted, adopt = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                os.close(adopt)
                os.read(adopted, 1)  # its parent is the right one from here on
                os.close(adopted)
                _take(descriptors)
                request: dict[str, Any] = json.loads(message)
                return request
            connection.send(str(pid).encode())
            os._exit(0)
        for descriptor in (adopted, *descriptors):
            os.close(descriptor)
        os.waitpid(between, 0)  # ended: the kernel has given its child away
        os.close(adopt)
        connection.send(b"adopted")


def _take(descriptors: list[int]) -> None:
    """Make them the standard streams. None of them is one of the server's, which are open."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _set_up(request: dict[str, Any], path: list[str]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    if request["new_session"]:
        os.setsid()
    sys.orig_argv = request["command"]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    for name in ("stdin", "stdout", "stderr"):
        stream = _anew(getattr(sys, name), bool(os.environ.get("PYTHONUNBUFFERED")))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    given = os.environ.get("PYTHONPATH", "")
    sys.path[:] = ["", *(given.split(os.pathsep) if given else []), *path]


def _anew(stream: Any, is_unbuffered: bool) -> io.TextIOWrapper:
    """Return a stream on the same descriptor, which leads to another file now."""
    raw = io.FileIO(stream.fileno(), stream.mode, closefd=False)
    buffer: Any = raw
    if stream.mode == "r":
        buffer = io.BufferedReader(raw)
    elif not is_unbuffered:
        buffer = io.BufferedWriter(raw)
    made = io.TextIOWrapper(
        buffer, stream.encoding, stream.errors, "\n", write_through=is_unbuffered,
        line_buffering=not is_unbuffered and (stream is sys.stderr or raw.isatty()),
    )  # fmt: skip
    made.mode = stream.mode
    return made


def _run(program: list[str]) -> None:
    """Run ``-m module ...``, ``-c code ...`` or ``path ...``."""
    first, *rest = program
    made = ModuleType("__main__")
    if first == "-m":
        sys.path[0] = os.getcwd()
        spec = importlib.util.find_spec(rest[0])
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{rest[0]}.__main__")
        if spec is None or spec.loader is None:
            raise ImportError(f"no module {rest[0]}")
        code = spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
        made.__spec__, made.__package__, made.__file__ = spec, spec.parent, spec.origin
        sys.argv = [str(spec.origin), *rest[1:]]
    elif first == "-c":
        code = compile(rest[0], "<string>", "exec")
        sys.argv = ["-c", *rest[1:]]
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(first))
        with open(first, "rb") as file:
            made.__file__ = os.path.abspath(first)
            code = compile(file.read(), made.__file__, "exec")
        sys.argv = program
    sys.modules["__main__"] = made
    exec(code, made.__dict__)


def _end(status: int) -> None:
    """Do what the interpreter does at its end, but for taking all modules apart: that takes nine
    times as long as a fork and an end without it."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if threading.active_count() == 1:  # a daemon would miss the names
        sys.modules["__main__"].__dict__.clear()
        gc.collect()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # noqa: BLE001 - the interpreter says what there is to say
        sys.exit(status)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
