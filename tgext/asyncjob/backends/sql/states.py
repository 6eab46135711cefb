"""What ``jobs.state`` holds. The only module that knows which status a state has.

Used as ``states.RUNNING``: some names are also those of a ``TaskResultStatus``.
"""

from __future__ import annotations

from ...job import TaskResultStatus

#: A scheduled job is READY to the application, and has a state of its own in the table, so that a
#: million of them cost a claim nothing.
AVAILABLE, SCHEDULED, RUNNING, SUCCEEDED, FAILED, CANCELLED = range(6)

#: Groups of them.
WAITING = (AVAILABLE, SCHEDULED)
ENDED = (SUCCEEDED, FAILED, CANCELLED)

STATUS_OF = {
    AVAILABLE: TaskResultStatus.READY,
    SCHEDULED: TaskResultStatus.READY,
    RUNNING: TaskResultStatus.RUNNING,
    SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    FAILED: TaskResultStatus.FAILED,
    CANCELLED: TaskResultStatus.CANCELLED,
}
STATE_OF = {
    TaskResultStatus.SUCCESSFUL: SUCCEEDED,
    TaskResultStatus.FAILED: FAILED,
    TaskResultStatus.CANCELLED: CANCELLED,
}
