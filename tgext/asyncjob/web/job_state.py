"""How a job stands, in the words of a page: one of eight states, a sentence, a percentage.

``static/progress.js`` has the same sentences, for what changes while the page is open.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ..backends.brief import Brief
from ..job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL
from ..one_line import one_line

#: Longest texts of a page, in characters.
TEXT_LENGTH, MESSAGE_LENGTH, NAME_LENGTH = 200, 300, 100

_ENDS = {SUCCESSFUL: "done", FAILED: "failed", CANCELLED: "cancelled"}

#: The states, and the sentence of each.
SENTENCES = {
    "waiting": "Waiting",
    "running": "Running",
    "retrying": "Waiting to try again",
    "cancelling": "Cancelling",
    "done": "Done",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "unknown": "Not known any more",
}

#: The states that no other one follows by itself.
FINAL = frozenset({*_ENDS.values(), "unknown"})


class JobState(NamedTuple):
    """One job as a page shows it; text is one line, without invisible characters."""

    name: str  #: a key of SENTENCES
    sentence: str
    value: int | None = None  #: None: nothing is reported of this attempt
    total: int | None = None  #: None: unknown
    percent: int | None = None  #: 0 to 100; None: unknown
    text: str | None = None  #: that of the last report
    error_class: str | None = None  #: of the last attempt that failed
    error_message: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, or is unknown."""
        return self.name in FINAL


UNKNOWN = JobState("unknown", SENTENCES["unknown"])


def state_of(job: Brief | None) -> JobState:
    """Return how *job* stands; None: it is unknown."""
    if job is None:
        return UNKNOWN
    name = _name(job)
    # While it waits for another attempt, what the last one has reported says nothing.
    value = None if job.value < 0 or name == "retrying" else job.value
    total = None if value is None or job.total is None or job.total <= 0 else job.total
    return JobState(
        name,
        _sentence(name, job),
        value,
        total,
        None if value is None or total is None else min(100 * value // total, 100),
        None if value is None or job.text is None else shown(job.text, TEXT_LENGTH),
        None if job.error_class is None else shown(job.error_class, NAME_LENGTH),
        None if job.error_message is None else shown(job.error_message, MESSAGE_LENGTH),
    )


def _name(job: Brief) -> str:
    if job.status is READY:
        return "retrying" if job.attempts and job.error_class is not None else "waiting"
    if job.status is RUNNING:
        return "cancelling" if job.is_cancelled else "running"
    return _ENDS[job.status]


def _sentence(name: str, job: Brief) -> str:
    sentence = SENTENCES[name]
    if name == "retrying" and job.due_in is not None:
        return f"Trying again in {_duration(job.due_in)}"
    if name == "waiting" and job.due_in is not None:
        return f"Starts in {_duration(job.due_in)}"
    if name == "running" and job.attempts > 1:
        return f"{sentence}, attempt {job.attempts}"
    if name == "failed" and job.error_class is not None:
        kind = shown(job.error_class, NAME_LENGTH).rpartition(".")[2]
        message = shown(job.error_message or "", MESSAGE_LENGTH)
        return f"{sentence}: {kind}: {message}" if message else f"{sentence}: {kind}"
    return sentence


def _duration(seconds: float) -> str:
    whole = max(1, -int(-seconds // 1))
    if whole < 100:
        return f"{whole} s"
    minutes = -(-whole // 60)
    return f"{minutes} min" if minutes < 100 else f"{-(-minutes // 60)} h"


def as_json(uid: str, job: Brief | None) -> dict[str, Any]:
    """Return what a page may know of a job: no argument, traceback or result, and no instant.

    ``seconds`` are those since an event, by the clock of the store, and to the next attempt.
    """
    state = state_of(job)
    found: dict[str, Any] = {
        "uid": uid,
        "status": None if job is None else job.status.value,
        "state": state.name,
        "attempt": 0 if job is None else job.attempts,
        "value": state.value,
        "total": state.total,
        "percent": state.percent,
        "text": state.text,
        "error": state.error_class
        and {"class": state.error_class, "message": state.error_message or ""},
    }
    if job is not None:
        ages = {
            "enqueued": job.enqueued_ago,
            "started": job.started_ago,
            "attempted": job.attempted_ago,
            "finished": job.finished_ago,
        }
        found["ages"] = {name: None if age is None else round(age, 3) for name, age in ages.items()}
        found["due_in"] = None if job.due_in is None else round(job.due_in, 3)
    return found


def shown(text: str, length: int) -> str:
    """Return *text* as one line of at most *length* characters and some escapes: white space
    becomes one space, and what is invisible or turns the direction of letters an escape."""
    # Cut before anything else: a text may have 100 KB.
    line = re.sub(r"\s+", " ", text[: 4 * length]).strip()
    cut = line if len(line) <= length and len(text) <= 4 * length else f"{line[:length]}..."
    return one_line(cut)
