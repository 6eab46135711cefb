"""The audit: who has cancelled, retried, paused, resumed or removed what, how many, and when.

A record is written in the transaction of what it tells of, so that there is neither without the
other. An action on many jobs has one record, to which each of its transactions adds.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from itertools import count
from typing import NamedTuple, Protocol

#: The most characters of a subject that are kept.
SUBJECT_LENGTH = 1_000

#: What stands as the result of an action on one thing, and of one on many until it has ended.
DONE, NOTHING, BEGUN = "done", "nothing to do", "begun"


class Act(NamedTuple):
    """Who does something; for the record of it."""

    user: str | None  #: None: nobody is logged in
    via: str  #: "page", "command" or "program"
    number: int | None = None  #: of the record to add to; None: it gets a record of its own


class AuditRecord(NamedTuple):
    """One action."""

    number: int  #: larger than those of earlier records
    at: datetime  #: when it began, aware UTC
    user: str | None  #: who did it; None: nobody was logged in
    via: str  #: "page", "command" or "program"
    action: str  #: "cancel", "retry", "pause", "resume", "limit", "purge", "delete", "run now"
    subject: str  #: a uid, a name of a queue, "schedule" and its name, or a filter
    changed: int  #: how many jobs or queues it has changed, so far
    result: str  #: "done", "nothing to do", "begun", or how an action on many has ended


class AnyAudit(Protocol):
    """The records of a backend."""

    def begin(self, act: Act, action: str, subject: str) -> Act:
        """Write that an action on many begins, and return the Act for its parts."""

    def end(self, number: int, result: str) -> None:
        """Write how an action on many has ended."""

    def find(self, number: int) -> AuditRecord | None:
        """Return a record; None: it was removed."""

    def page(self, before: int | None, limit: int) -> list[AuditRecord]:
        """Return records, the newest first. before: only those with a smaller number."""


class Audit:
    """The records of this process, in its memory. clock: returns seconds since the epoch.

    Threads do without a lock: each step is one operation of a dict, and only one of them changes a
    record.
    """

    #: The most records that are kept.
    most = 10_000

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = count(1)
        self._records: dict[int, AuditRecord] = {}

    def note(self, act: Act | None, action: str, subject: str, changed: int) -> None:
        """Write what was done; None: nobody wants to know."""
        if act is None:
            return
        if act.number is None:
            self._add(act, action, subject, changed, DONE if changed else NOTHING)
        elif (record := self.find(act.number)) is not None:
            self._records[act.number] = record._replace(changed=record.changed + changed)

    def begin(self, act: Act, action: str, subject: str) -> Act:
        return act._replace(number=self._add(act, action, subject, 0, BEGUN))

    def _add(self, act: Act, action: str, subject: str, changed: int, result: str) -> int:
        number, at = next(self._numbers), datetime.fromtimestamp(self._clock(), timezone.utc)
        subject = subject[:SUBJECT_LENGTH]
        self._records[number] = AuditRecord(
            number, at, act.user, act.via, action, subject, changed, result
        )
        self._records.pop(number - self.most, None)
        return number

    def end(self, number: int, result: str) -> None:
        if (record := self.find(number)) is not None:
            self._records[number] = record._replace(result=result)

    def find(self, number: int) -> AuditRecord | None:
        return self._records.get(number)

    def page(self, before: int | None, limit: int) -> list[AuditRecord]:
        found = [each for each in self._all() if before is None or each.number < before]
        return found[: -limit - 1 : -1]

    def prune(self, before: float) -> None:
        """Remove the records of before that time, in seconds since the epoch."""
        for each in self._all():
            if each.at.timestamp() > before:
                return
            self._records.pop(each.number, None)

    def _all(self) -> list[AuditRecord]:
        """The records, the oldest first."""
        return sorted(self._records.values())
