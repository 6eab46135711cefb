"""How a job stands, in the words of a page: one of eight states, a sentence, a percentage.

``static/progress.js`` has the same sentences, for what changes while the page is open.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ..backends.brief import MOST_SHOWN_BEFORE, Brief
from ..job import CANCELLED, FAILED, READY, RUNNING, SUCCESSFUL
from ..one_line import one_line
from ..task_result import percent_of
from .texts import gettext, marked, ngettext

#: Longest texts of a page, in characters.
TEXT_LENGTH, MESSAGE_LENGTH, NAME_LENGTH = 200, 300, 100

_ENDS = {SUCCESSFUL: "done", FAILED: "failed", CANCELLED: "cancelled"}

#: The states, and the sentence of each.
SENTENCES = {
    "waiting": marked("Waiting"),
    "running": marked("Running"),
    "retrying": marked("Waiting to try again"),
    "cancelling": marked("Cancelling"),
    "done": marked("Done"),
    "failed": marked("Failed"),
    "cancelled": marked("Cancelled"),
    "unknown": marked("Not known any more"),
}

#: What else an element says, by the names that ``static/progress.js`` has for it.
PHRASES = {
    "starts": marked("Starts in %(time)s"),
    "again": marked("Trying again in %(time)s"),
    "more": marked("Waiting, %(number)s or more jobs before it"),
    "attempt": marked("Running, attempt %(number)s"),
    "s": marked("%(number)s s"),
    "min": marked("%(number)s min"),
    "h": marked("%(number)s h"),
    "few": marked("a few seconds left"),
    "left": marked("about %(time)s left"),
    "away": marked("The server does not answer. Trying again."),
    "kept": marked("It could not be cancelled. Try again."),
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
    eta_seconds: float | None = None  #: None: unknown
    queue_position: int | None = None  #: jobs before it; None: it does not wait, or unknown

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, or is unknown."""
        return self.name in FINAL


def state_of(job: Brief | None) -> JobState:
    """Return how *job* stands; None: it is unknown."""
    if job is None:
        return JobState("unknown", gettext(SENTENCES["unknown"]))
    name = _name(job)
    # While it waits for another attempt, what the last one has reported says nothing.
    value = None if job.value < 0 or name == "retrying" else job.value
    total = None if value is None or job.total is None or job.total <= 0 else job.total
    return JobState(
        name,
        _sentence(name, job),
        value,
        total,
        percent_of(RUNNING, value, total) if value is not None else None,
        None if value is None or job.text is None else shown(job.text, TEXT_LENGTH),
        None if job.error_class is None else shown(job.error_class, NAME_LENGTH),
        None if job.error_message is None else shown(job.error_message, MESSAGE_LENGTH),
        job.eta_seconds if name == "running" else None,
        job.before if name in ("waiting", "retrying") else None,
    )


def _name(job: Brief) -> str:
    if job.status is READY:
        return "retrying" if job.attempts and job.error_class is not None else "waiting"
    if job.status is RUNNING:
        return "cancelling" if job.is_cancelled else "running"
    return _ENDS[job.status]


def _sentence(name: str, job: Brief) -> str:
    if name == "retrying" and job.due_in is not None:
        return gettext(PHRASES["again"], time=_duration(job.due_in))
    if name == "waiting" and job.due_in is not None:
        return gettext(PHRASES["starts"], time=_duration(job.due_in))
    if name == "waiting" and job.before:
        if job.before >= MOST_SHOWN_BEFORE:
            return gettext(PHRASES["more"], number=job.before)
        return before(job.before)
    if name == "running" and job.attempts > 1:
        return gettext(PHRASES["attempt"], number=job.attempts)
    sentence = gettext(SENTENCES[name])
    if name == "failed" and job.error_class is not None:
        kind = shown(job.error_class, NAME_LENGTH).rpartition(".")[2]
        message = shown(job.error_message or "", MESSAGE_LENGTH)
        return f"{sentence}: {kind}: {message}" if message else f"{sentence}: {kind}"
    return sentence


def before(number: int) -> str:
    """Say that so many jobs come first."""
    return ngettext(
        "Waiting, %(number)s job before it", "Waiting, %(number)s jobs before it", number
    )


def _duration(seconds: float) -> str:
    whole = max(1, -int(-seconds // 1))
    if whole < 100:
        return gettext(PHRASES["s"], number=whole)
    minutes = -(-whole // 60)
    if minutes < 100:
        return gettext(PHRASES["min"], number=minutes)
    return gettext(PHRASES["h"], number=-(-minutes // 60))


def time_left(seconds: float | None) -> str:
    """Say how long a job will still run, in steps that do not pretend to know it; "" for None."""
    if seconds is None:
        return ""
    if seconds < 5:
        return gettext(PHRASES["few"])
    step = 5 if seconds < 60 else 30 if seconds < 600 else 300
    return gettext(PHRASES["left"], time=_duration(-(-seconds // step) * step))


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
        "eta_seconds": None if state.eta_seconds is None else round(state.eta_seconds, 1),
        "queue_position": state.queue_position,
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
