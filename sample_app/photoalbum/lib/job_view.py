"""Say how a job goes, in the words of a page.

``asyncjob_result(uid)`` gives the facts; a ``JobView`` has what the templates
show: one of five states (or "unknown"), a percentage, a sentence.
"""

from dataclasses import dataclass

from tgext.asyncjob import TaskResultStatus, UnknownJob, asyncjob_result

__all__ = ["JobView", "look_up"]

STATES = {
    TaskResultStatus.READY: ("waiting", "Waiting"),
    TaskResultStatus.RUNNING: ("running", "Running"),
    TaskResultStatus.SUCCESSFUL: ("done", "Done"),
    TaskResultStatus.FAILED: ("failed", "Failed"),
    TaskResultStatus.CANCELLED: ("cancelled", "Cancelled"),
}


@dataclass(frozen=True)
class JobView:
    """One job, as a page shows it."""

    uid: str
    title: str
    state: str  #: "waiting", "running", "done", "failed", "cancelled", "unknown"
    label: str  #: the same for people
    result: object  #: the ``TaskResult``; None for an unknown job

    @property
    def is_active(self):
        """Whether the job has not ended yet, so that looking again makes sense."""
        return self.state in ("waiting", "running")

    @property
    def value(self):
        """How far the job is, counted from 0; None while that is not known."""
        progress = self.result.progress
        return None if progress.total is None else max(progress.value, 0)

    @property
    def total(self):
        """The value at which the job will be done."""
        return self.result.progress.total

    @property
    def percent(self):
        """How far the job is, 0 to 100; None while that is not known."""
        return int(100 * self.value / self.total) if self.total else None

    @property
    def step(self):
        """What the job said that it is doing; else what can be said without it."""
        data = self.result.progress.data
        if isinstance(data, dict):
            return data["step"]
        return "Beginning" if self.value is None else f"{self.value} of {self.total} done"

    @property
    def ran(self):
        """When the last attempt began and ended; None while it has not, or where that is not
        known: a job may have been cancelled long after its last attempt."""
        if self.state not in ("done", "failed"):
            return None
        return self.result.last_attempted_at, self.result.finished_at

    @property
    def error(self):
        """Why the last attempt failed; None if it did not."""
        return self.result.errors[-1] if self.result.errors else None

    @property
    def error_name(self):
        """The class of the error without its module."""
        return self.error.exception_class_path.rpartition(".")[2]


def look_up(uid, title="Job"):
    """Give the ``JobView`` of *uid*.

    Ended jobs are forgotten after ``asyncjob.retention`` seconds, and all jobs where
    they are kept in memory and the server stops; the album remembers only that they
    were started.
    """
    try:
        result = asyncjob_result(uid)
    except UnknownJob:
        return JobView(uid, title, "unknown", "No longer known", None)
    state, label = STATES[result.status]
    return JobView(uid, title, state, label, result)
