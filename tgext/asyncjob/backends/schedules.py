"""The contract of what keeps the schedules of a backend, and turns their ticks into jobs.

The identity of a tick is its schedule and its nominal instant. A tick is recorded once, in one
transaction with its job and with the next instant of its schedule; which process does that, and by
which clock, does not matter. Nothing about a schedule is kept in memory between two ticks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ..call import Call
from ..job import Job
from ..recurrence import Recurrence
from ..task_options import TaskOptions
from .audit import Act

#: A declared schedule that no running process has declared for so long is stale, in seconds.
STALE_SECONDS = 300.0

#: The most schedules of which one call of ``fire`` enqueues jobs, and the longest time that it may
#: take, in seconds: the rescue of jobs waits for it.
FIRED_AT_ONCE = 100
FIRING_SECONDS = 0.5


def audited(name: str) -> str:
    """Return how the audit names a schedule."""
    return f"schedule {name}"


class NewSchedule(NamedTuple):
    """What a schedule is made of."""

    name: str
    call: Call
    options: TaskOptions  #: a Task, or the default ones
    recurrence: Recurrence
    is_declared: bool  #: by ``@task``


class ScheduleState(NamedTuple):
    """A schedule at one moment; instants are aware UTC."""

    name: str
    task: str  #: the dotted path of what its jobs call
    recurrence: Recurrence | None  #: None: it cannot be read in this process
    next_at: datetime | None  #: its next tick; None: it is stale
    is_declared: bool  #: by ``@task``
    is_stale: bool  #: no running process declares it any more
    paused_since: datetime | None
    paused_by: str | None  #: the user who has paused it; None: it was not paused in a request
    version: int  #: counts its changes


class Tick(NamedTuple):
    """One tick of a schedule."""

    instant: datetime  #: aware UTC; of ``run_now``: when that was
    uid: str | None  #: of the job; None: there is none
    reason: str | None  #: why there is no job, or a job out of turn; None: it came in its turn

    @property
    def status(self) -> str:
        """``enqueued`` or ``skipped``."""
        return "skipped" if self.uid is None else "enqueued"


def other_origin(name: str, is_declared: bool) -> str:
    """Return the message for a name that is used by a schedule of the other origin."""
    if is_declared:
        return (
            f"schedule: expected a name that no task declares, got {name!r}, the schedule of a "
            "task with cron or every; give another name"
        )
    return (
        f"@task with cron or every: expected no other schedule of the name {name!r}, got one that "
        "JobQueue.schedule() has made; delete that one, or give it another name"
    )


class ScheduleStore(ABC):
    """Keeps schedules. Any thread may call any method. connection: as for ``Backend``."""

    #: called when ``due_at`` may have become earlier
    wake: Callable[[], object] = staticmethod(lambda: None)

    @abstractmethod
    def put(self, schedule: NewSchedule, connection: Any = None) -> ScheduleState:
        """Create a schedule, or change the one of its name, and return it.

        The next tick stays as it is unless the instants change: then it is the first after now.
        Raises NotSerializable if the call cannot be stored, ConfigError if one of ``put`` and
        ``declare`` would replace what the other has made.
        """

    @abstractmethod
    def declare(self, schedules: Sequence[NewSchedule]) -> None:
        """``put`` each of them once in this process, and fire them from now on. Of those that
        other processes alone have declared ``fire`` enqueues nothing."""

    @abstractmethod
    def get(self, name: str, connection: Any = None) -> ScheduleState | None:
        """Read a schedule; None if there is none of this name."""

    @abstractmethod
    def all(self) -> list[ScheduleState]:
        """Read all schedules, in the order of their names."""

    @abstractmethod
    def retime(self, name: str, recurrence: Recurrence, connection: Any = None) -> bool:
        """Change when a schedule has its ticks, from now on; False if there is none."""

    @abstractmethod
    def pause(
        self, name: str, user: str | None, connection: Any = None, act: Act | None = None
    ) -> bool:
        """Skip the ticks of a schedule from now on; False if there is none, or it was paused.

        act: here and below: who does it, for the audit; None: it is not recorded there.
        """

    @abstractmethod
    def resume(self, name: str, connection: Any = None, act: Act | None = None) -> bool:
        """End the pause of a schedule; False if there is none, or it was not paused. The ticks up
        to now are skipped."""

    @abstractmethod
    def delete(self, name: str, connection: Any = None, act: Act | None = None) -> bool:
        """Remove a schedule with its ticks; False if there is none."""

    @abstractmethod
    def run_now(self, name: str, connection: Any = None, act: Act | None = None) -> Job | None:
        """Enqueue a job of a schedule, beside its ticks; None if there is no schedule. The caller
        announces it.

        Raises what reading its call raises.
        """

    @abstractmethod
    def ticks(self, name: str, limit: int) -> list[Tick]:
        """Read the ticks of a schedule that are kept, the latest first."""

    @abstractmethod
    def due_at(self) -> float:
        """Return when ``fire`` has to be called, by ``time.monotonic()``; infinity: it is not
        known that it has to. Reads nothing."""

    @abstractmethod
    def fire(self) -> int:
        """Enqueue the jobs of the ticks that are due, and return how many."""
