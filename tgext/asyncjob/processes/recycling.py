"""Limits of a worker process after which it is replaced by a new one.

They bound memory leaks: of a library that keeps something of every job, or of a heap that does not
shrink.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, MissingExtra

try:
    import psutil  # type: ignore[import-untyped]
except ImportError:  # without the extra `worker`; on Linux STATM is read instead
    psutil = None

#: The memory of a process in pages, on Linux; the second number is the resident memory.
STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class RecycleLimits:
    """The limits of a process; None: no limit.

    max_jobs: jobs run, 1 or more. max_rss_bytes: resident memory, 1 or more.

    Raises ConfigError for less, and MissingExtra if the memory of a process cannot be read here.
    """

    max_jobs: int | None = None
    max_rss_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, bound in (("max_jobs", self.max_jobs), ("max_rss_bytes", self.max_rss_bytes)):
            if bound is not None and bound < 1:
                raise ConfigError(f"{name}: expected 1 or more, or None for no bound, got {bound}")
        if self.max_rss_bytes is not None:
            _meter()

    def are_reached(self, jobs_run: int) -> bool:
        """Return whether this process is to drain and be replaced. jobs_run: since its start."""
        if self.max_jobs is not None and jobs_run >= self.max_jobs:
            return True
        return self.max_rss_bytes is not None and rss_bytes() >= self.max_rss_bytes


def rss_bytes() -> int:
    """Return the resident memory of this process; raises MissingExtra if it cannot be read."""
    return _meter()()


def _meter() -> Callable[[], int]:
    if psutil is not None:
        return _psutil_rss
    if STATM.exists():
        return _statm_rss
    raise MissingExtra("a bound for the memory of a worker process (max_rss_bytes)", "worker")


def _psutil_rss() -> int:
    return int(psutil.Process().memory_info().rss)


def _statm_rss() -> int:
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
