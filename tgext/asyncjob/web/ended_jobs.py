"""What has ended in the last hour and the last day, as a page shows it: charts and numbers."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from ..backends.statistics import BOUNDS, MINUTE, SUMMED, Counts, minute_of
from . import charts
from .texts import gettext, marked

if TYPE_CHECKING:
    from .visit import Visit

#: Tasks that a page shows.
MOST_TASKS = 10

#: A duration that is longer than all that are told apart.
LONGEST = marked("over 1 h")


class Line(NamedTuple):
    """A row of numbers."""

    name: str
    done: int
    failed: int
    cancelled: int
    retried: int
    median: str  #: of the durations
    most: str  #: what 95 % did not exceed
    wait: str  #: on average


class Chart(NamedTuple):
    """A drawing with what stands around it."""

    name: str
    caption: str
    drawing: Markup


class Span(NamedTuple):
    """A part of the past."""

    key: str
    ago: str  #: how long ago it began
    numbers: str  #: what its numbers are called
    each: str  #: what one of its lines stands for
    total: Line
    lines: list[Line]  #: of each step in which something has ended, the last first
    charts: list[Chart]


class Words(NamedTuple):
    """How a span is spoken of."""

    name: str
    ago: str
    numbers: str
    each: str
    counts: str
    durations: str


HOUR = Words(
    marked("Last hour"),
    marked("1 h ago"),
    marked("Numbers of the last hour"),
    marked("Each minute, by its begin, UTC"),
    marked("last hour: up to %(most)s in a minute"),
    marked("last hour: median and 95 %%, up to %(most)s"),
)
DAY = Words(
    marked("Last day"),
    marked("1 d ago"),
    marked("Numbers of the last day"),
    marked("Each half hour, by its begin, UTC"),
    marked("last day: up to %(most)s in half an hour"),
    marked("last day: median and 95 %%, up to %(most)s"),
)


def spans(visit: Visit) -> list[Span]:
    """Read the last hour and the last day."""
    now = minute_of(visit.now.timestamp())
    return [
        _span(visit, "hour", HOUR, range(now - 60, now)),
        _span(visit, "day", DAY, range(_day_of(visit), _day_of(visit) + 48 * SUMMED, SUMMED)),
    ]


def _day_of(visit: Visit) -> int:
    """The minute with which the last day begins: it ends with the half hour that is not over."""
    now = minute_of(visit.now.timestamp())
    return now - now % SUMMED - 47 * SUMMED


def tasks(visit: Visit) -> list[Line]:
    """Read the tasks of which most has ended in the last day."""
    found = visit.queue.backend.statistics.by_task(_day_of(visit), MOST_TASKS)
    return [_line(name or gettext("others"), counts) for name, counts in found]


def _span(visit: Visit, key: str, words: Words, steps: range) -> Span:
    found = visit.queue.backend.statistics.series(steps.start, steps.step)
    slots = [found.get(step) for step in steps]
    total = Counts()
    for each in slots:
        if each is not None:
            total.add(each)
    lines = [
        _line(_clock(step), each)
        for step, each in zip(steps, slots, strict=True)
        if each is not None
    ]
    line = _line(gettext(words.name), total)
    drawn = [
        _counts(f"{key}-done", "done", gettext("Done"), words.counts, [
            None if each is None else each.done for each in slots
        ]),
        _counts(f"{key}-failed", "failed", gettext("Failed"), words.counts, [
            None if each is None else each.failed for each in slots
        ]),
        _durations(f"{key}-took", words.durations, line, slots),
    ]  # fmt: skip
    ago, numbers, each_line = (gettext(text) for text in (words.ago, words.numbers, words.each))
    return Span(key, ago, numbers, each_line, line, lines[::-1], drawn)


def _counts(key: str, kind: str, name: str, caption: str, values: list[int | None]) -> Chart:
    present = [value for value in values if value is not None]
    total, most = f"{sum(present):,}", f"{max(present, default=0):,}"
    said = gettext(caption, most=most)
    text = gettext("%(total)s in all, %(most)s at most.", total=total, most=most)
    return Chart(name, said, charts.bars(key, kind, f"{name}, {said}", text, values))


def _durations(key: str, caption: str, line: Line, slots: list[Counts | None]) -> Chart:
    name = gettext("Durations")
    medians = [None if each is None else _finite(each.quantile(0.5)) for each in slots]
    most = [None if each is None else _finite(each.quantile(0.95)) for each in slots]
    said = gettext(caption, most=lasting(max(filter(None, most), default=None)))
    text = gettext(
        "Each bar is a median, each mark above it what 95 %% did not exceed, on a logarithmic "
        "scale. Of all: %(median)s and %(most)s.",
        median=line.median, most=line.most,
    )  # fmt: skip
    return Chart(name, said, charts.durations(key, f"{name}, {said}", text, medians, most))


def _line(name: str, counts: Counts) -> Line:
    return Line(
        name, counts.done, counts.failed, counts.cancelled, counts.retried,
        lasting(counts.quantile(0.5)), lasting(counts.quantile(0.95)), lasting(counts.mean_wait),
    )  # fmt: skip


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None else min(seconds, BOUNDS[-1])


def _clock(minute: int) -> str:
    return f"{datetime.fromtimestamp(minute * MINUTE, timezone.utc):%d %H:%M}"


def lasting(seconds: float | None) -> str:
    """Return a duration with as many digits as are known of it; a dash for None."""
    if seconds is None:
        return "-"
    if math.isinf(seconds):
        return gettext(LONGEST)
    if seconds < 0.001:
        return gettext("under 1 ms")
    if seconds < 0.995:
        return f"{_rounded(1_000 * seconds)} ms"
    if seconds < 99.5:
        return f"{_rounded(seconds)} s"
    if seconds < 5_970:
        return f"{_rounded(seconds / 60)} min"
    return f"{_rounded(seconds / 3_600)} h"


def _rounded(number: float) -> str:
    """Return a number with two digits."""
    return f"{number:.1f}" if 0 < number < 9.95 else f"{number:.0f}"
