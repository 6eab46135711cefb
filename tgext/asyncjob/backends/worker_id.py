"""A worker's id says which process it is, and how long it may be silent.

A pid alone proves nothing: it is given again, and each machine and container counts its own. So
an id also has the process's start, and a name for the kernel and the namespaces by which both are
counted. Only there can the kernel be asked whether that process is gone; elsewhere nothing is
known of it. Where there is no ``/proc``, an id has the pid alone.

    4711 - 81234 - 9f86d081884c - 20s - 5d41402abc4b
    pid    start   kernel         lease random
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from ..job import WorkerId

_ID = re.compile(
    r"(?P<pid>[1-9]\d{0,8})-(?:(?P<start>\d{1,19})-(?P<kernel>[0-9a-f]{12})-)?"
    r"(?:(?P<lease>\d{1,9}(?:\.\d{1,3})?)s-)?[0-9a-f]{12}"
)

#: What a pid and a start are counted by; old kernels do not have the second.
_NAMESPACES = ("/proc/self/ns/pid", "/proc/self/ns/time")


class _Process(NamedTuple):
    """A process, as the kernel describes it."""

    start: int  #: in ticks since the machine's
    has_ended: bool  #: and its parent has not asked for its status yet


def new_worker_id(lease_seconds: float | None = None, pid: int | None = None) -> WorkerId:
    """Return an id that no other worker has or had.

    lease_seconds: how long it may be silent. pid: None: this process's.
    """
    parts = [str(os.getpid() if pid is None else pid)]
    kernel, process = kernel_name(), _process(int(parts[0]))
    if kernel is not None and process is not None:
        parts += [str(process.start), kernel]
    if lease_seconds is not None and lease_seconds < 1e9:
        parts.append(f"{lease_seconds:.3f}".rstrip("0").rstrip(".") + "s")
    return WorkerId("-".join([*parts, os.urandom(6).hex()]))


def lease_of(worker_id: str) -> float | None:
    """Return how long it may be silent, in seconds; None: its id does not say."""
    found = _ID.fullmatch(worker_id)
    return float(found["lease"]) if found is not None and found["lease"] else None


def is_gone(worker_id: str) -> bool | None:
    """Tell whether the process of a worker is gone for sure; None: this kernel does not know."""
    found = _ID.fullmatch(worker_id)
    if found is None or found["kernel"] is None or found["kernel"] != kernel_name():
        return None
    pid = int(found["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's
    process = _process(pid)
    if process is None:  # hidden from us
        return None
    return process.has_ended or process.start != int(found["start"])


def kernel_name() -> str | None:
    """Return what stands for this run of this kernel and the namespaces of this process; None
    where it cannot be found out."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None  # it is that of another namespace
        spaces = [os.readlink(each) for each in _NAMESPACES if os.path.lexists(each)]
    except OSError:
        return None
    boot = boot_id()
    if boot is None:
        return None
    return hashlib.sha256(" ".join([boot, *spaces]).encode()).hexdigest()[:12]


def boot_id() -> str | None:
    """Return what names this run of this kernel, in all its containers; None: it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


def _process(pid: int) -> _Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the program's name, which may have anything in it.
    fields = stat.rpartition(b")")[2].split()
    state, threads, start = fields[0], int(fields[17]), int(fields[19])
    # The first thread of a process may end before the others.
    return _Process(start, state in (b"Z", b"X") and threads <= 1)
