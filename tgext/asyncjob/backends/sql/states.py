"""The values of ``jobs.state``, and the status of each; no other module maps them.

Used as ``states.RUNNING``, since some names are also those of a ``TaskResultStatus``.
"""

from __future__ import annotations

from ...job import TaskResultStatus

#: A scheduled job has the status READY. It has a state of its own in the table so that a claim does
#: not read scheduled jobs.
AVAILABLE, SCHEDULED, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(6)

#: So has a job that waits to be admitted: see ``admission``.
BLOCKED = 6

#: Groups of them.
WAITING = (AVAILABLE, SCHEDULED, BLOCKED)
ENDED = (SUCCEEDED, FAILED, CANCELLED)

STATUS_OF = {
    AVAILABLE: TaskResultStatus.READY,
    SCHEDULED: TaskResultStatus.READY,
    RUNNING: TaskResultStatus.RUNNING,
    SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    FAILED: TaskResultStatus.FAILED,
    CANCELLED: TaskResultStatus.CANCELLED,
    BLOCKED: TaskResultStatus.READY,
}
STATE_OF = {
    TaskResultStatus.SUCCESSFUL: SUCCEEDED,
    TaskResultStatus.FAILED: FAILED,
    TaskResultStatus.CANCELLED: CANCELLED,
}
