"""The state of a job in a table: a shape and a word, as the progress element has them."""

from __future__ import annotations

from ..job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL, Snapshot

#: For each status its state, which ``static/dashboard.css`` has a shape for, and its name.
STATE_OF = {
    READY: ("waiting", "Waiting"),
    RUNNING: ("running", "Running"),
    SUCCESSFUL: ("done", "Done"),
    FAILED: ("failed", "Failed"),
    CANCELLED: ("cancelled", "Cancelled"),
}


def state_of(job: Snapshot) -> tuple[str, str]:
    """Return the state of a job, and its name."""
    if job.status is READY and job.attempts and job.errors:
        return ("retrying", "Trying again")
    return STATE_OF[job.status]
