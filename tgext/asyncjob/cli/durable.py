"""What only a backend can do that other processes work on; any other is refused with the reason."""

from __future__ import annotations

from typing import Any

from ..backends.overview import Overview
from ..errors import ConfigError
from ..queue import JobQueue
from .command_result import Load


def durable(queue: JobQueue) -> Any:
    """Return the backend of *queue*; raises ConfigError if no other process can see its jobs."""
    backend = queue.backend
    if not backend.is_shared:
        raise ConfigError(
            f"expected jobs that several processes can see, got asyncjob.backend = {backend.name}: "
            "it keeps them in the memory of the process that enqueues them, and they run and end "
            "there; set asyncjob.backend = sql"
        )
    return backend


def overview_of(queue: JobQueue) -> Overview:
    """Return what can be asked of its backend; raises ConfigError as ``durable`` does."""
    overview: Overview = durable(queue).overview
    return overview


def reached(load: Load) -> JobQueue:
    """Load the application for a process that is not to wait until its database can be reached;
    raises what that says."""
    queue: JobQueue = load()
    try:
        overview_of(queue).now()
    except BaseException:
        queue.close()
        raise
    return queue
