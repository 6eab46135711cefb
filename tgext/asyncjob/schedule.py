"""``Schedule``, what ``JobQueue.schedule()`` returns, and the checks of a new one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from typing import Any

from .backends.audit import Act
from .backends.listing import check_limit
from .backends.schedules import NewSchedule, ScheduleState, ScheduleStore, Tick
from .call import Call, check
from .errors import ConfigError
from .job import storable
from .recurrence import Recurrence
from .results import Results
from .sentence import Sentence
from .task import Task, keys_for
from .task_options import DEFAULT_OPTIONS
from .task_result import TaskResult
from .worker.child_process import check_picklable

#: The longest name of a schedule, in characters.
LONGEST_NAME = 255

#: So long after its instant the tick of a schedule should have been seen, in seconds.
SEEN_SECONDS = 60.0

_UNCHANGED: Any = object()


class Schedule:
    """A schedule, as it was when it was read; ``refresh()`` reads it again.

    Its methods take part in a managed transaction on the database of the jobs, and take effect with
    its commit; otherwise at once. All processes go by the new state from then on.
    """

    def __init__(
        self,
        results: Results,
        state: ScheduleState,
        user: Callable[[], str | None],
        act: Act | None = None,
    ) -> None:
        self._act = act
        self._results = results
        self._state = state
        self._user = user

    def __repr__(self) -> str:
        return f"<Schedule {self.name}>"

    @property
    def name(self) -> str:
        """Its name; of a declared one the dotted path of the task."""
        return self._state.name

    @property
    def task(self) -> str:
        """The dotted path of what its jobs call."""
        return self._state.task

    @property
    def cron(self) -> str | None:
        """The expression; None for one with ``every``."""
        return None if self._state.recurrence is None else self._state.recurrence.cron

    @property
    def every(self) -> timedelta | None:
        """The time between two ticks; None for one with ``cron``."""
        return None if self._state.recurrence is None else self._state.recurrence.every

    @property
    def timezone(self) -> str | None:
        """The time zone of ``cron``; None: UTC."""
        return None if self._state.recurrence is None else self._state.recurrence.timezone

    @property
    def catch_up(self) -> str | int | None:
        """Which late ticks fire; None if this process cannot read the schedule."""
        return None if self._state.recurrence is None else self._state.recurrence.catch_up

    @property
    def timing(self) -> str:
        """When its ticks are, in one line."""
        found = self._state.recurrence
        return "not understood by this process" if found is None else found.text

    @property
    def next_at(self) -> datetime | None:
        """The next tick, aware UTC, which a paused schedule will skip; None: it is stale."""
        return self._state.next_at

    @property
    def is_paused(self) -> bool:
        """Whether its ticks are skipped."""
        return self._state.paused_since is not None

    @property
    def paused_since(self) -> datetime | None:
        """When it was paused, aware UTC; None: it is not paused."""
        return self._state.paused_since

    @property
    def paused_by(self) -> str | None:
        """Who was logged in at its pause; None: it is not paused, or was not by a request."""
        return self._state.paused_by

    @property
    def is_declared(self) -> bool:
        """Whether ``@task`` declares it."""
        return self._state.is_declared

    @property
    def is_stale(self) -> bool:
        """Whether ``@task`` declared it, and no running process does any more."""
        return self._state.is_stale

    @property
    def version(self) -> int:
        """Counts its changes, from 1."""
        return self._state.version

    def upcoming(self, limit: int = 5) -> list[datetime]:
        """Return its next ticks, aware UTC, the first one first."""
        found, begin = self._state.recurrence, self._state.next_at
        if found is None or begin is None:
            return []
        after = islice(found.after(begin.timestamp()), limit - 1)
        return [begin, *(datetime.fromtimestamp(each, timezone.utc) for each in after)][:limit]

    def explain(self) -> list[str]:
        """Return sentences that say why its ticks enqueue no jobs; [] if they do."""
        return [str(sentence) for sentence in why_not(self)]

    def ticks(self, limit: int = 20) -> list[Tick]:
        """Return its ticks that are kept (``retention``), the latest first.

        A Tick has ``instant`` (aware UTC), ``status`` ("enqueued" or "skipped"), ``reason`` (None:
        it came in its turn) and ``uid`` of the job, or None. limit: at most 1,000.
        """
        return self._store.ticks(self.name, check_limit(limit))

    def refresh(self) -> bool:
        """Read the schedule again; False if it was deleted, then it stays as it is."""
        found = self._results.change(partial(self._store.get, self.name))
        self._state = found or self._state
        return found is not None

    def pause(self) -> bool:
        """Skip its ticks from now on; False if it was paused or deleted before."""
        return self._change(partial(self._store.pause, self.name, self._user(), act=self._act))

    def resume(self) -> bool:
        """End its pause; False if it was not paused. Ticks of the pause are not made up for."""
        return self._change(partial(self._store.resume, self.name, act=self._act))

    def delete(self) -> bool:
        """Remove it, with its ticks, and not its jobs; False if it was deleted before.

        Raises ConfigError for one that a running process declares.
        """
        self._refuse_declared("deleted")
        return self._change(partial(self._store.delete, self.name, act=self._act))

    def update(
        self,
        *,
        cron: str | None = _UNCHANGED,
        every: timedelta | None = _UNCHANGED,
        timezone: str | None = _UNCHANGED,
        catch_up: str | int = _UNCHANGED,
    ) -> bool:
        """Change when it has its ticks, from now on; False if it was deleted. What is left out
        stays; cron takes the place of every, and every that of cron.

        Raises ConfigError for values that describe no ticks, and for a schedule that ``@task``
        declares.
        """
        self._refuse_declared("changed")
        before = self._state.recurrence
        given = {"cron": cron, "every": every, "timezone": timezone, "catch_up": catch_up}
        values = {name: value for name, value in given.items() if value is not _UNCHANGED}
        kept = {"catch_up"}
        if "every" not in values:
            kept |= {"timezone"} if "cron" in values else {"cron", "every", "timezone"}
        stays = {name: getattr(before, name) for name in kept} if before is not None else {}
        recurrence = Recurrence(**{**stays, **values})
        return self._change(partial(self._store.retime, self.name, recurrence))

    def run_now(self) -> TaskResult | None:
        """Enqueue a job of it beside its ticks, also if it is paused; None if it was deleted.

        Raises what reading its stored call raises: CallableMissing, BadSignature ...
        """
        job = self._results.change(partial(self._store.run_now, self.name, act=self._act))
        if job is None:
            return None
        self._results.announce(job)
        return TaskResult(self._results, self._results.snapshot_of(job))

    @property
    def _store(self) -> ScheduleStore:
        return self._results.backend.schedules

    def _change(self, change: Callable[[Any], bool]) -> bool:
        changed = self._results.change(change)
        self.refresh()
        return bool(changed)

    def _refuse_declared(self, what: str) -> None:
        self.refresh()
        if self.is_declared and not self.is_stale:
            raise ConfigError(
                Sentence(
                    "expected a schedule that JobQueue.schedule() has made to be %(what)s, got "
                    "%(name)s, which @task declares: change it there, or pause it",
                    what=what,
                    name=repr(self.name),
                )
            )


def why_not(schedule: Schedule) -> list[Sentence]:
    """See ``Schedule.explain``."""
    if schedule.is_stale:
        return [
            Sentence("no running process declares it: cron= or every= was removed from its task")
        ]
    if schedule.is_paused and schedule.paused_by:
        return [Sentence("it is paused by %(user)s", user=schedule.paused_by)]
    if schedule.is_paused:
        return [Sentence("it is paused")]
    late_seconds = 0.0
    if schedule.next_at is not None:
        late_seconds = (datetime.now(timezone.utc) - schedule.next_at).total_seconds()
    if late_seconds <= SEEN_SECONDS:
        return []
    late = f"{late_seconds:.0f}"
    if schedule.is_declared:
        return [
            Sentence(
                "its tick was due %(number)s s ago: no worker that has imported its task runs",
                number=late,
            )
        ]
    return [Sentence("its tick was due %(number)s s ago: no worker on this database runs",
                     number=late)]  # fmt: skip


def new_schedule(
    name: object, target: Any, args: Sequence[Any], kwargs: Any, recurrence: Recurrence
) -> NewSchedule:
    """Check what a schedule is to call. Raises BadCall, ConfigError."""
    is_name = isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()
    # A space at the end is nothing in comparisons of MariaDB.
    if not (isinstance(name, str) and is_name and storable(name) == name == name.rstrip(" ")):
        raise ConfigError(
            f"schedule: expected a name of 1 to {LONGEST_NAME} printable characters, the last one "
            f"no space, got {name!r}"
        )
    options = target if isinstance(target, Task) else DEFAULT_OPTIONS
    if isinstance(target, Task) and target.run_after is not None:
        raise ConfigError(
            f"schedule: expected a task without run_after, got {target.run_after!r}; the schedule "
            "says when its jobs begin"
        )
    function = target.func if isinstance(target, Task) else target
    call = Call(function, tuple(args), dict(kwargs) if kwargs else None)
    check(function, call.args, call.kwargs or {}, implied=int(options.takes_context))
    if options.executor == "process":
        check_picklable(call)
    keys_for(call, options)  # raises now what each tick would
    return NewSchedule(name, call, options, recurrence, False)
