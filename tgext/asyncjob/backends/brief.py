"""What a page with progress bars reads of a job: how it stands, and nothing of its content.

A ``Brief`` never has arguments, a return value or a traceback, and nothing of it is imported or
unpickled. It tells ages by the clock of the store, since that of the reader may be wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..job import READY, TaskResultStatus

#: Longest text of a report that is read, in characters; the rest is cut.
TEXT_LENGTH = 2_000

#: The most waiting jobs that are counted before a job.
MOST_SHOWN_BEFORE = 100

#: The most queues of one list of jobs in which they are counted.
MOST_QUEUES = 5


class Brief(NamedTuple):
    """One job at one moment; ages and delays are seconds, at least 0."""

    uid: str
    status: TaskResultStatus
    enqueued_ago: float
    is_cancelled: bool = False  #: it runs, and stops at its next checkpoint
    started_ago: float | None = None  #: since its first attempt began; None: none has
    attempted_ago: float | None = None  #: since its last attempt began; None: none has
    finished_ago: float | None = None  #: since it ended; None: it has not
    due_in: float | None = None  #: seconds until it may start; None: it may start, or has started
    attempts: int = 0  #: how many attempts have begun
    value: int = -1  #: its progress; -1 before the first report
    total: int | None = None  #: the value at which it will be done; None: unknown
    text: str | None = None  #: the text of its last report; see ``text_of``
    eta_seconds: float | None = None  #: estimated, until it is done; None: unknown
    #: jobs of its queue that a worker would take before it, up to MOST_SHOWN_BEFORE, which means
    #: that or more; None: it does not wait, is delayed, or this is not known
    before: int | None = None
    error_class: str | None = None  #: ``module.Class`` of its last error; None: none was raised
    error_message: str | None = None
    user: str | None = None  #: who was logged in when it was enqueued

    @classmethod
    def new(cls, uid: str, user: str | None) -> Brief:
        """Return the brief of a job that was enqueued just now."""
        return cls(uid, READY, 0.0, user=user)


def text_of(data: Any) -> str | None:
    """Return the text that a report has for its readers: its data, or the ``text`` of a dict.

    None if there is none. Longer than TEXT_LENGTH characters it is cut; a backend that stores JSON
    may leave out one that is much longer.
    """
    found = data.get("text") if type(data) is dict else data
    # Not found[:...], which a subclass of str may define: memory calls this with its lock held.
    return str.__getitem__(found, slice(TEXT_LENGTH)) if isinstance(found, str) else None
