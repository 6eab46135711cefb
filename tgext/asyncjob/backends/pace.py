"""How fast an attempt goes, from its own reports, and so how long it will take.

Nothing is better than something wrong: without a total, before the third report, within the first
two seconds, while nothing moves, and after a silence there is no estimate.
"""

from __future__ import annotations

from typing import NamedTuple

#: What must have been seen before there is an estimate.
LEAST_REPORTS, LEAST_SECONDS = 3, 2.0

#: After this many seconds half of what a report says of the speed counts, or after a quarter of the
#: time since the first report, if that is longer: a slow first item does not last for ever, and a
#: short pause does not make the estimate jump.
HALF_LIFE_SECONDS = 10.0

#: A job is silent if it has not reported for this many times the usual, and these seconds.
SILENT_GAPS, SILENT_SECONDS = 3, 5.0


class Speed(NamedTuple):
    """How fast the reports of one attempt came."""

    rate: float  #: growth of the value per second
    gap: float  #: seconds between two reports


class Pace:
    """The reports of one attempt. value, at: of the first one; at: seconds of any clock."""

    __slots__ = ("_at", "_began_at", "_done", "_reports", "_spent", "_value", "attempt")

    def __init__(self, attempt: int, value: int, at: float) -> None:
        self.attempt = attempt
        self._began_at = self._at = at
        self._value = value
        self._reports = 1
        self._done = self._spent = 0.0

    def add(self, value: int, at: float) -> None:
        """Note another report."""
        passed = max(0.0, at - self._at)
        half_life = max(HALF_LIFE_SECONDS, (at - self._began_at) / 4)
        kept = 0.5 ** (passed / half_life)
        try:
            self._done = self._done * kept + float(value - self._value)
        except OverflowError:  # the memory backend accepts any int
            self._done = 0.0
        self._spent = self._spent * kept + passed
        self._value, self._at = value, at
        self._reports += 1

    def speed(self) -> Speed | None:
        """Return how fast it goes; None: not known."""
        passed = self._at - self._began_at
        if self._reports < LEAST_REPORTS or passed < LEAST_SECONDS:
            return None
        if self._done <= 0 or self._spent <= 0:
            return None
        return Speed(self._done / self._spent, passed / (self._reports - 1))


def seconds_left(value: int, total: int | None, speed: Speed | None, ago: float) -> float | None:
    """Estimate the seconds until *value* will be *total*; None: not known.

    ago: seconds since the last report.
    """
    if total is None or speed is None or ago > SILENT_GAPS * speed.gap + SILENT_SECONDS:
        return None
    try:
        return max(0.0, (total - value) / speed.rate - ago)
    except OverflowError:
        return None
