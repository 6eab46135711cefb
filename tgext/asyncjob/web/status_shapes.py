"""The state of a job in a table: a shape and a word, as the progress element has them."""

from __future__ import annotations

from ..job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL, Snapshot
from .texts import marked

#: For each status its state, which ``static/dashboard.css`` has a shape for, and its name.
STATE_OF = {
    READY: ("waiting", marked("Waiting")),
    RUNNING: ("running", marked("Running")),
    SUCCESSFUL: ("done", marked("Done")),
    FAILED: ("failed", marked("Failed")),
    CANCELLED: ("cancelled", marked("Cancelled")),
}


def state_of(job: Snapshot) -> tuple[str, str]:
    """Return the state of a job, and its name."""
    if job.status is READY and job.attempts and job.errors:
        return ("retrying", marked("Trying again"))
    return STATE_OF[job.status]
