"""A queue's WebApplication as a host mounts it, and jobs in every state for its pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import webtest

from tgext.asyncjob import JobQueue
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import (
    CANCELLED,
    FAILED,
    READY,
    SUCCESSFUL,
    Job,
    Outcome,
    Progress,
    TaskError,
    WorkerId,
)
from tgext.asyncjob.task_options import TaskOptions
from tgext.asyncjob.web import Rights, WebApplication

#: Where the host mounts it.
BASE = "/jobs"

#: Sent by browsers of today with a form of the same site.
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}

#: Text that no page may show as it is: markup, NUL, and characters that reverse letters.
HOSTILE = "<script>alert(1)</script>\"'&\0\u202eevil\u2066\r\n\x1b[2K"

#: Characters that no answer may contain.
FORBIDDEN = ("\0", "\u202e", "\u2066", "\x1b", "<script>alert", "\ufffe")

WORKER = WorkerId("w1")
ERROR = TaskError("app.Broken", "three is not a colour", "Traceback: a secret line")


def users_rights(environ: dict[str, Any]) -> Rights | None:
    """Take the user from the environ; "manager" may do everything, "reader" may see it."""
    user = environ.get("test.user")
    if user is None:
        return None
    return Rights(user, may_view=user == "reader", may_act=lambda: user == "manager")


def app_of(queue: JobQueue, rights: Any = users_rights, base: str = BASE) -> webtest.TestApp:
    """The WebApplication of a queue, asked as a browser asks."""
    return webtest.TestApp(
        WebApplication(queue, rights=rights),
        extra_environ={"SCRIPT_NAME": base, "HTTP_HOST": "shop.example"},
    )


def work(*_args: Any) -> None:
    """What these jobs would do; nobody runs them."""


class Jobs:
    """Makes jobs of one queue, in the state that a test wants, without running anything."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.backend: Any = queue.backend
        self._claims: dict[str, Any] = {}

    def waiting(
        self, user: str | None = None, run_after: Any = None, queue_name: str = "default"
    ) -> str:
        options = TaskOptions(max_attempts=3, queue_name=queue_name)
        context = {"user": user}
        call = Call(work, ("a secret argument",), None)
        job = self.backend.prepare(Job(self.backend.new_uid(), call, options, run_after, context))
        self.backend.enqueue([job])
        return str(job.uid)

    def _claimed(self, user: str | None) -> Any:
        self.waiting(user, queue_name="claimed")
        [claim] = self.backend.claim(WORKER, ["claimed"], 1)
        self._claims[claim.job.uid] = claim
        return claim

    def claim_again(self, uid: str) -> None:
        """Begin an attempt of a job of the queue "claimed", the next one that is due there."""
        [claim] = self.backend.claim(WORKER, ["claimed"], 1)
        assert claim.job.uid == uid
        self._claims[uid] = claim

    def report(self, uid: str, *report: Any) -> None:
        """Report the progress of a running job."""
        self.backend.report(self._claims[uid], Progress(*report))

    def end(self, uid: str, outcome: Outcome) -> None:
        """End a running job."""
        assert self.backend.finish(self._claims[uid], outcome)

    def running(self, *report: Any, user: str | None = None) -> str:
        claim = self._claimed(user)
        if report:
            self.backend.report(claim, Progress(*report))
        return str(claim.job.uid)

    def cancelling(self, user: str | None = None) -> str:
        uid = self.running(1, "one", 4, user=user)
        self.backend.cancel(uid)
        return uid

    def ended(self, outcome: Outcome, user: str | None = None) -> str:
        claim = self._claimed(user)
        self.backend.report(claim, Progress(1, "one", 4))
        self.backend.finish(claim, outcome)
        return str(claim.job.uid)

    def retrying(self, user: str | None = None, delay: float = 60.0) -> str:
        return self.ended(Outcome(READY, error=ERROR, delay_seconds=delay), user)

    def done(self, user: str | None = None) -> str:
        return self.ended(Outcome(SUCCESSFUL, result="a secret result"), user)

    def failed(self, user: str | None = None, error: TaskError = ERROR) -> str:
        return self.ended(Outcome(FAILED, error=error), user)

    def cancelled(self, user: str | None = None) -> str:
        return self.ended(Outcome(CANCELLED), user)

    def of_each_state(self) -> dict[str, str]:
        """A uid by each state that an element shows."""
        makers: dict[str, Callable[[], str]] = {
            "waiting": self.waiting,
            "running": lambda: self.running(1, "one", 4),
            "retrying": self.retrying,
            "cancelling": self.cancelling,
            "done": self.done,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "unknown": lambda: "asyncjob_unknown",
        }
        return {name: make() for name, make in makers.items()}
