"""The backend of a queue whose jobs other processes can see; any other is refused."""

from __future__ import annotations

from typing import Any

from ..backends.overview import Overview
from ..errors import ConfigError
from ..queue import JobQueue


def shared_backend(queue: JobQueue) -> Any:
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
    """Return the overview of its backend; raises ConfigError as ``shared_backend`` does."""
    overview: Overview = shared_backend(queue).overview
    return overview
