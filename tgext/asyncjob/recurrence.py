"""``Recurrence``: when the ticks of a schedule are, and which of them fire.

A tick is an instant, in seconds since the epoch. Those of ``cron`` are as Debian's cron has them
when the clocks change: a time of day that is skipped comes right after the gap, one that comes
twice counts once, and what runs by the hour or more often goes on evenly. Those of ``every`` are
its multiples since the epoch. So the ticks of a schedule do not depend on when a process starts.
"""

from __future__ import annotations

import functools
import importlib
import math
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from itertools import chain, islice
from typing import Any, NamedTuple

from . import tick_reasons
from .amount import is_int
from .errors import ConfigError, MissingExtra
from .task_options import LONGEST_DELAY

#: The longest expression and the longest name of a time zone, in characters.
LONGEST_CRON = 100
LONGEST_ZONE = 64

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

UTC = "UTC"

#: A tick that is seen so many seconds after its instant is late; also one that is seen more than
#: one interval after it.
LATE_SECONDS = 60.0

#: The most late ticks that ``catch_up`` may let fire.
MOST_CAUGHT_UP = 1_000

#: The most ticks that are recorded one by one after a pause or a standstill; those before them are
#: recorded together, as one.
RECORDED = 1_000

#: A year of each kind: by the day of the week on which it begins, and its length.
_YEARS = {(date(year, 1, 1).weekday(), year % 4 == 0): year for year in range(2000, 2028)}.values()


class Due(NamedTuple):
    """What becomes of the ticks of a schedule that are due."""

    fired: tuple[float, ...]
    skipped: tuple[tuple[float, str], ...]  #: with the reasons
    next_at: float  #: the first tick that was not decided on; may be due, too, if there are many


@dataclass(frozen=True)
class Recurrence:
    """Checked here, so that a declaration fails at import.

    Raises ConfigError for values that describe no ticks, MissingExtra for ``cron`` without cronsim.
    """

    #: five fields, as in a crontab, or an alias such as ``@daily``
    cron: str | None = None
    #: whole seconds
    every: timedelta | None = None
    #: of ``cron``: a name such as ``Europe/Berlin``; None: UTC
    timezone: str | None = None
    #: which late ticks fire: ``"none"``, ``"last"`` or a number: so many of the latest
    catch_up: str | int = "last"

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            raise ConfigError(
                f"expected either cron or every, got cron={self.cron!r} and every={self.every!r}; "
                'give one of them, as in cron="30 2 * * *" or every=timedelta(minutes=5)'
            )
        _check_catch_up(self.catch_up)
        if self.cron is not None:
            _zone(self.timezone)
            _check_cron(self.cron)
            return
        _check_every(self.every)
        if self.timezone is not None:
            raise ConfigError(
                f"timezone: expected none beside every, got {self.timezone!r}: its ticks are "
                "multiples since the epoch; leave it out, or use cron"
            )

    @property
    def timing(self) -> tuple[Any, ...]:
        """What the instants depend on."""
        return self.cron, self.every, self.timezone or UTC

    @property
    def text(self) -> str:
        """The recurrence in one line."""
        if self.every is not None:
            return f"every {self.every}"
        return f"{self.cron} {self.timezone or UTC}"

    def after(self, seconds: float) -> Iterator[float]:
        """Yield the ticks after an instant, in their order, without end."""
        if self.every is not None:
            step = int(self.every.total_seconds())
            number = math.floor(seconds / step)
            while True:
                number += 1
                if number * step > seconds:
                    yield float(number * step)
        begin = datetime.fromtimestamp(math.floor(seconds), _zone(self.timezone))
        last = seconds
        for found in _simulation(ALIASES.get(self.cron or "", self.cron or ""), begin):
            # Twice, or before: a time of day that comes again when the clocks are set back.
            if (instant := found.timestamp()) > last:
                yield (last := instant)

    def next_after(self, seconds: float) -> float:
        """Return the first tick after an instant."""
        return next(self.after(seconds))

    def due(self, next_at: float, now: float, why_not: str | None = None) -> Due:
        """Decide on the ticks from *next_at* to *now*.

        why_not: the reason for which none fires; None: ``catch_up`` decides on late ones.
        """
        most_caught_up = _number_of(self.catch_up)
        most = RECORDED + most_caught_up + 2  # of ticks that are not late there are at most two
        ticks = chain([next_at], self.after(next_at))
        found: list[float] = []
        for instant in islice(ticks, most + 1):
            found.append(instant)
            if instant > now:
                break
        if found[-1] <= now:  # the first of them are late, and none of the latest
            together, following = found[:RECORDED], found[RECORDED]
            reason = why_not or self._why_late(now - together[-1])
            summary = tick_reasons.together(reason, len(together) - 1, _shown(together[0]))
            return Due((), ((together[-1], summary),), following)
        *found, following = found
        if why_not is not None:
            return Due((), tuple((instant, why_not) for instant in found), following)
        intervals = zip(found, [*found[1:], following], strict=True)
        late = [at for at, after in intervals if now - at > min(LATE_SECONDS, after - at)]
        left = late[: len(late) - most_caught_up] if most_caught_up else late
        skipped = tuple((instant, self._why_late(now - instant)) for instant in left)
        return Due(tuple(found[len(left) :]), skipped, following)

    def _why_late(self, late_seconds: float) -> str:
        return tick_reasons.late(late_seconds, self.catch_up)


def _shown(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _number_of(catch_up: str | int) -> int:
    return catch_up if isinstance(catch_up, int) else {"none": 0, "last": 1}[catch_up]


def _check_catch_up(value: object) -> None:
    is_number = is_int(value) and 0 < value <= MOST_CAUGHT_UP
    if not (is_number or (isinstance(value, str) and value in ("none", "last"))):
        raise ConfigError(
            f'catch_up: expected "none", "last" or a number from 1 to {MOST_CAUGHT_UP:,} of late '
            f"ticks, got {value!r}"
        )


def _check_every(value: object) -> None:
    if not isinstance(value, timedelta):
        raise ConfigError(
            f"every: expected a timedelta, got {value!r}; for seconds use timedelta(seconds=...)"
        )
    if value < timedelta(seconds=1) or value.microseconds or value > LONGEST_DELAY:
        raise ConfigError(
            f"every: expected whole seconds, from 1 s to {LONGEST_DELAY.days:,} days, got {value!r}"
        )


def _check_cron(value: object) -> None:
    if not isinstance(value, str) or len(value) > LONGEST_CRON:
        got = f"{len(value)} characters" if isinstance(value, str) else repr(value)
        raise ConfigError(
            f"cron: expected a text of at most {LONGEST_CRON} characters, got {got}; for a rule "
            "that needs more use several schedules"
        )
    if value in ALIASES:
        value = ALIASES[value]
    elif value.startswith("@"):
        raise ConfigError(f"cron: expected one of {', '.join(ALIASES)}, got {value!r}")
    if len(value.split()) != 5:
        raise ConfigError(
            "cron: expected five fields, minute, hour, day of the month, month and day of the "
            f'week, as in "30 2 * * *", got {value!r}'
        )
    try:
        simulation = _simulation(value, datetime(2000, 1, 1, tzinfo=timezone.utc))
        if any(map(simulation.match_day, _days(tuple(sorted(simulation.months))))):
            return
        why = "no such day is in any year"
    except (AssertionError, TypeError, ValueError, _cronsim().CronSimError) as error:
        why = str(error) or "it cannot be read"
    raise ConfigError(
        f"cron: expected an expression with times that come, got {value!r}: {why}; see crontab(5)"
    )


@functools.lru_cache(maxsize=32)
def _days(months: tuple[int, ...]) -> list[date]:
    """The days of some months, of each kind of year, from the first."""
    begins = [date(year, month, 1) for year in _YEARS for month in months]
    return [
        day
        for begin in begins
        for number in range(31)
        if (day := begin + timedelta(days=number)).month == begin.month
    ]


def _zone(name: str | None) -> tzinfo:
    """Return the time zone of a name; UTC for None. Raises ConfigError if there is none here."""
    if name is None or name == UTC:
        return timezone.utc  # needs no files
    try:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ZONE:
            raise ValueError("no such name")
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        got = name if not isinstance(name, str) else name[:LONGEST_ZONE]
        raise ConfigError(
            "timezone: expected the name of a time zone that this machine knows, such as "
            f"Europe/Berlin, got {got!r}; if the name is right, the machine has no time zones: "
            "run pip install tzdata"
        ) from None


def _cronsim() -> Any:
    try:
        return importlib.import_module("cronsim")
    except ModuleNotFoundError as error:
        raise MissingExtra("a schedule with cron", "cron") from error


def _simulation(expression: str, begin: datetime) -> Any:
    make: Callable[[str, datetime], Any] = _cronsim().CronSim
    return make(expression, begin)
