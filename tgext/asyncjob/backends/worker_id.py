"""The id of a worker, which identifies its process and contains its lease.

A pid alone identifies no process: it is reused, and each machine and container has its own. So an
id also has the start of the process, and a name for the kernel and the namespaces in which both
count. Only a process there can ask the kernel whether the worker's process still exists. Without
``/proc`` an id has the pid alone.

    4711 - 81234 - 9f86d081884c - 20s - 5d41402abc4b
    pid    start   kernel         lease random
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..job import WorkerId

_ID = re.compile(
    r"(?P<pid>[1-9]\d{0,8})-(?:(?P<start>\d{1,19})-(?P<kernel>[0-9a-f]{12})-)?"
    r"(?:(?P<lease>\d{1,9}(?:\.\d{1,3})?)s-)?[0-9a-f]{12}"
)

#: The namespaces that a pid and a start belong to; old kernels do not have the second.
_NAMESPACES = ("/proc/self/ns/pid", "/proc/self/ns/time")


class _Process(NamedTuple):
    """A process, as the kernel describes it."""

    start: int  #: in clock ticks since the start of the machine
    has_ended: bool  #: it is a zombie: its parent has not read its status yet


def new_worker_id(lease_seconds: float | None = None, pid: int | None = None) -> WorkerId:
    """Return a new id.

    lease_seconds: how long the worker may send no heartbeat. pid: None: that of this process.
    """
    parts = [str(os.getpid() if pid is None else pid)]
    kernel, process = kernel_name(), _process(int(parts[0]))
    if kernel is not None and process is not None:
        parts += [str(process.start), kernel]
    if lease_seconds is not None and lease_seconds < 1e9:
        parts.append(f"{lease_seconds:.3f}".rstrip("0").rstrip(".") + "s")
    return WorkerId("-".join([*parts, os.urandom(6).hex()]))


def lease_of(worker_id: str) -> float | None:
    """Return the lease in the id of a worker, in seconds; None if there is none."""
    found = _ID.fullmatch(worker_id)
    return float(found["lease"]) if found is not None and found["lease"] else None


def is_gone(worker_id: str) -> bool | None:
    """Return whether the process of a worker has ended; None if this kernel cannot tell."""
    found = _ID.fullmatch(worker_id)
    if found is None or found["kernel"] is None or found["kernel"] != kernel_name():
        return None
    pid = int(found["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is another user's process
    process = _process(pid)
    if process is None:  # hidden from us
        return None
    return process.has_ended or process.start != int(found["start"])


def kernel_name() -> str | None:
    """Return a name for this boot of this kernel and the namespaces of this process; None if it
    cannot be found out."""
    # The namespaces of a process do not change, and a rescue asks for each worker of a fleet.
    return _kernel_name_of(os.getpid())


@lru_cache(maxsize=1)
def _kernel_name_of(_pid: int) -> str | None:
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None  # /proc belongs to another namespace
        spaces = [os.readlink(each) for each in _NAMESPACES if os.path.lexists(each)]
    except OSError:
        return None
    boot = boot_id()
    if boot is None:
        return None
    return hashlib.sha256(" ".join([boot, *spaces]).encode()).hexdigest()[:12]


def boot_id() -> str | None:
    """Return the name of this boot of this kernel, the same in all containers; None: none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


def _process(pid: int) -> _Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the name of the program, which may contain any character.
    fields = stat.rpartition(b")")[2].split()
    state, threads, start = fields[0], int(fields[17]), int(fields[19])
    # The first thread of a process may end before the others.
    return _Process(start, state in (b"Z", b"X") and threads <= 1)
