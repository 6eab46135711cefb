"""The part of the contract by which people steer jobs, and what is written of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from .audit import Act, AnyAudit
from .overview import PausedQueue


class Steered(ABC):
    """A part of ``Backend``. act: who does it, for the audit; None: nobody wants to know."""

    #: The records of what people have done: what is given an ``act`` is written there, with it.
    audit: AnyAudit

    @abstractmethod
    def cancel(self, uid: str, connection: Any = None, act: Act | None = None) -> bool | None:
        """Cancel a READY job, or ask a RUNNING one to stop.

        Returns True if that was possible: no attempt of the job can then ``finish`` as SUCCESSFUL,
        and none follows. Returns False if the job had ended, or its work is just being committed,
        and None if it is unknown.
        """

    @abstractmethod
    def retry(self, uid: str, connection: Any = None, act: Act | None = None) -> bool | None:
        """Make an ended job READY with a new budget of attempts; False if it has not ended.

        Its errors and its number of attempts are kept. None if it is unknown.
        """

    @abstractmethod
    def change_many(
        self,
        action: str,
        uids: Sequence[str],
        until: datetime | None = None,
        act: Act | None = None,
        subject: str = "",
    ) -> int:
        """``retry`` or ``cancel`` several jobs in one transaction; return how many were changed.

        action: "retry" or "cancel". until: leave out jobs that have ended after that, or, if they
        have not, were cancelled already: who does it again changes no job twice. subject: what the
        record says of them.
        """

    @abstractmethod
    def highest(self) -> int:
        """Return the number of the job that was enqueued last, for ``JobFilter.highest``."""

    @abstractmethod
    def pause(self, queue_name: str, user: str | None = None, act: Act | None = None) -> bool:
        """Let no worker claim from a queue until ``resume``; False if it was paused before. Jobs
        that are claimed already go on, and jobs can be enqueued.

        user: for ``paused``.
        """

    @abstractmethod
    def resume(self, queue_name: str, act: Act | None = None) -> bool:
        """End the pause of a queue; False if it was not paused."""

    @abstractmethod
    def limit(self, queue_name: str, most: int | None, act: Act | None = None) -> None:
        """Let only so many jobs of a queue run at once; None: any number. Jobs that are claimed
        already go on."""

    @abstractmethod
    def queue_limits(self) -> dict[str, int]:
        """Return the queues with a limit, in the order of their names."""

    @abstractmethod
    def running_in(self, queue_name: str) -> int:
        """Count the jobs of a queue with a limit that run."""

    def running_in_each(self, queue_names: Collection[str]) -> dict[str, int]:
        """Count the jobs that run, of each of some queues with a limit."""
        return {name: self.running_in(name) for name in queue_names}

    @abstractmethod
    def paused(self) -> list[PausedQueue]:
        """Return the paused queues, in the order of their names."""
