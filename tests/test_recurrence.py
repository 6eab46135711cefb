"""When ticks are: a year in four zones, hostile expressions, and what is refused.

The days on which the clocks change stand in a table that was made by hand, from cron(8) of Debian:
of jobs at a fixed time, those in a gap run right after it, and those of an hour that comes twice
run once; jobs that have a ``*`` in the hour or the minute go by the clock on the wall as it is.
"""

from __future__ import annotations

import sys
import time
from datetime import date, datetime, timedelta, timezone
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from examples import examples
from tgext.asyncjob import ConfigError, MissingExtra, task
from tgext.asyncjob.recurrence import ALIASES, LONGEST_CRON, Recurrence

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"

#: When the clocks change in 2026, by local time: in spring from 2:00 to 3:00 (on Lord Howe Island
#: to 2:30), in autumn from 3:00 (New York, Lord Howe Island: 2:00) back by an hour (half an hour).
CHANGES = {
    BERLIN: (date(2026, 3, 29), date(2026, 10, 25)),
    NEW_YORK: (date(2026, 3, 8), date(2026, 11, 1)),
    LORD_HOWE: (date(2026, 10, 4), date(2026, 4, 5)),
}

#: By hand: the ticks of those days, as UTC.
TABLE = [
    # a fixed time in the gap: right after it; in the hour that comes twice: the first time
    ("30 2 * * *", BERLIN, "spring", ["01:00"]),
    ("30 2 * * *", BERLIN, "autumn", ["00:30"]),
    ("30 2 * * *", NEW_YORK, "spring", ["07:00"]),
    ("30 1 * * *", NEW_YORK, "autumn", ["05:30"]),
    ("15 2 * * *", LORD_HOWE, "spring", ["15:30-"]),
    ("45 1 * * *", LORD_HOWE, "autumn", ["14:45-"]),
    # not in the gap: as on any day
    ("30 3 * * *", BERLIN, "spring", ["01:30"]),
    ("30 2 * * *", LORD_HOWE, "spring", ["15:30-"]),
    # several fixed times
    ("15 1-4 * * *", BERLIN, "spring", ["00:15", "01:00", "01:15", "02:15"]),
    ("15 1-4 * * *", BERLIN, "autumn", ["23:15-", "00:15", "02:15", "03:15"]),
    ("0,30 2 * * *", BERLIN, "spring", ["01:00"]),
    ("0,30 1,2 * * *", LORD_HOWE, "autumn", ["14:00-", "14:30-", "15:30-", "16:00-"]),
    # by the hour: evenly
    ("0 * * * *", BERLIN, "spring", [f"{hour:02}:00" for hour in (-1, *range(22))]),
    ("0 * * * *", BERLIN, "autumn", [f"{hour:02}:00" for hour in (-2, -1, *range(23))]),
    ("*/30 1 * * *", NEW_YORK, "autumn", ["05:00", "05:30", "06:00", "06:30"]),
    ("0 */2 * * *", BERLIN, "spring", [f"{hour:02}:00" for hour in (-1, *range(2, 21, 2))]),
]


def ticks_of_day(recurrence: Recurrence, day: date) -> list[datetime]:
    """The ticks of one day by local time, as UTC."""
    begin = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(recurrence.timezone or "UTC"))
    end = (begin.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=begin.tzinfo)
    ticks = recurrence.after(begin.timestamp() - 1)
    found = takewhile(lambda instant: instant < end.timestamp(), ticks)
    return [datetime.fromtimestamp(instant, timezone.utc) for instant in found]


def by_hand(day: date, texts: list[str]) -> list[datetime]:
    """``23:15-`` and ``-1:00`` are of the UTC day before."""
    found = []
    for text in texts:
        hours, minutes = text.rstrip("-").split(":")
        midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
        hour = int(hours) - 24 * text.endswith("-")
        found.append(midnight + timedelta(hours=hour, minutes=int(minutes)))
    return found


@pytest.mark.parametrize(("cron", "zone", "season", "expected"), TABLE)
def test_day_on_which_the_clocks_change_is_as_in_the_table(cron, zone, season, expected):
    day = CHANGES[zone][season == "autumn"]

    assert ticks_of_day(Recurrence(cron, timezone=zone), day) == by_hand(day, expected)


@pytest.mark.parametrize("zone", [*CHANGES, "UTC"])
def test_year_of_daily_ticks_has_one_on_each_day(zone):
    """At 2:30: on Lord Howe Island that is where its gap ends."""
    recurrence, place = Recurrence("30 2 * * *", timezone=zone), ZoneInfo(zone)
    begin = datetime(2026, 1, 1, tzinfo=place).timestamp()
    found = [datetime.fromtimestamp(at, place) for at in islice(recurrence.after(begin), 365)]

    assert [each.date() for each in found] == [
        date(2026, 1, 1) + timedelta(days=number) for number in range(365)
    ]
    spring = CHANGES.get(zone, (None,))[0]
    assert {f"{each:%H:%M}" for each in found if each.date() != spring} == {"02:30"}


@pytest.mark.parametrize(
    ("cron", "zone"),
    [("*/20 * * * *", LORD_HOWE), *(("0 * * * *", zone) for zone in (*CHANGES, "UTC"))],
)
def test_year_of_frequent_ticks_has_even_intervals(zone, cron):
    step = 1200 if cron.startswith("*/20") else 3600
    found = list(islice(Recurrence(cron, timezone=zone).after(1_767_225_600), 31_536_000 // step))
    odd = [after - before for before, after in pairwise(found) if after - before != step]

    # where the clocks change by half an hour, the ticks stay at their minutes
    assert len(odd) <= (4 if zone == LORD_HOWE else 0)
    assert all(abs(gap - step) in (600, 1200, 1800) for gap in odd)


@pytest.mark.parametrize("zone", [*CHANGES, "UTC"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "15 1-4 * * *", "0,30 1,2 * * *", "*/30 1 * * *"])
def test_tick_after_each_tick_is_the_next_one(zone, cron):
    """However often, and from where, a process begins to count."""
    recurrence = Recurrence(cron, timezone=zone)
    found = list(islice(recurrence.after(1_767_225_600), 600))
    near = [(a, b) for a, b in pairwise(found)][:: 1 if cron.startswith("*") else 3]

    assert all(recurrence.next_after(before) == after for before, after in near)
    assert all(recurrence.next_after(after - 0.25) == after for _, after in near)
    assert all(recurrence.next_after((a + b) / 2) == b for a, b in near)


def test_repeated_hour_does_not_bring_a_tick_back():
    """A process that starts in the second of the two hours does not fire what was in the first."""
    recurrence = Recurrence("30 2 * * *", timezone=BERLIN)
    second = datetime(2026, 10, 25, 1, 15, tzinfo=timezone.utc)  # 2:15 for the second time

    assert recurrence.next_after(second.timestamp()) == datetime(
        2026, 10, 26, 1, 30, tzinfo=timezone.utc
    ).timestamp()  # fmt: skip


def test_every_has_the_multiples_of_its_interval():
    recurrence = Recurrence(every=timedelta(minutes=7))

    assert [at % 420 for at in islice(recurrence.after(1_767_225_600.5), 1_000)] == [0.0] * 1_000
    assert recurrence.next_after(840.0) == 1260.0
    assert recurrence.next_after(839.999) == 840.0


@pytest.mark.parametrize("alias", ALIASES)
def test_alias_stands_for_its_expression(alias):
    of_alias = islice(Recurrence(alias).after(1_767_225_601), 5)
    assert list(of_alias) == list(islice(Recurrence(ALIASES[alias]).after(1_767_225_601), 5))


HOSTILE = [
    "1," * 50 + "1 * * * *",
    "0 0 31 2 *",
    "0 0 30 2 *",
    "0 0 */31 * MON#5",
    "0 0 */29 2 1#5",
    "0 0 */30 2 7#5",
    "0 0 * * ²L",
    "0 0 * * 1L/2",
    "0 0 LW-3 * *",
    "9" * 90 + " * * * *",
    "* * * * * *",
    "* * * *",
    "",
    "@reboot",
    "@every 5m",
    "\0 * * * *",
    "٣ * * * *",
    "60 * * * *",
    "-1 * * * *",
    "*/0 * * * *",
    "5-1 * * * *",
    5,
    b"* * * * *",
    "x" * 1_000_000,
]


def used_seconds(cron: object) -> float:
    """The time of the processor for a refusal, the least of three: others use it, too."""
    used = []
    for _ in range(3):
        begin = time.thread_time()
        with pytest.raises(ConfigError, match=r"^cron: expected"):
            Recurrence(cron)  # type: ignore[arg-type]
        used.append(time.thread_time() - begin)
    return min(used)


@pytest.mark.parametrize("cron", HOSTILE, ids=lambda cron: repr(cron)[:30])
def test_hostile_expression_is_refused_in_no_time(cron):
    Recurrence("0 0 1 * *")  # imports cronsim

    assert used_seconds(cron) < 0.01


def test_long_expression_is_understood_in_no_time():
    cron = ",".join(["*"] * 45) + " * * * *"
    begin = time.thread_time()
    assert Recurrence(cron).next_after(0) == 60
    assert time.thread_time() - begin < 0.05


@given(st.text("0123456789*/,-#LWMONJAN ", max_size=LONGEST_CRON + 5))
@example("0 0 29 2 1#5")
@settings(max_examples=examples(300), deadline=None)
def test_expression_is_refused_or_has_ticks(text):
    try:
        recurrence = Recurrence(text)
    except ConfigError:
        return
    first = recurrence.next_after(1_767_225_600)
    assert recurrence.next_after(first) > first > 1_767_225_600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either cron or every, got cron=None and every=None"),
        ({"cron": "@daily", "every": timedelta(1)}, "expected either cron or every"),
        ({"every": 5}, r"every: expected a timedelta, got 5; for seconds use timedelta\(seconds"),
        ({"every": timedelta(seconds=0.5)}, "every: expected whole seconds"),
        ({"every": timedelta(seconds=1.5)}, "every: expected whole seconds"),
        ({"every": timedelta(days=40_000)}, "every: expected whole seconds"),
        ({"every": timedelta(1), "timezone": "UTC"}, "timezone: expected none beside every"),
        ({"cron": "@daily", "timezone": "Europe/Bärlin"}, "timezone: expected the name of a time"),
        ({"cron": "@daily", "timezone": "../../etc/passwd"}, "timezone: expected the name"),
        ({"cron": "@daily", "timezone": "America"}, "timezone: expected the name"),
        ({"cron": "@daily", "timezone": ""}, "timezone: expected the name"),
        ({"cron": "@daily", "timezone": 5}, "timezone: expected the name"),
        ({"cron": "@daily", "catch_up": "all"}, 'catch_up: expected "none", "last" or a number'),
        ({"cron": "@daily", "catch_up": 0}, "catch_up: expected"),
        ({"cron": "@daily", "catch_up": True}, "catch_up: expected"),
        ({"cron": "@daily", "catch_up": 1_001}, "catch_up: expected"),
        ({"cron": "@daily", "catch_up": None}, "catch_up: expected"),
    ],
)
def test_values_that_describe_no_ticks_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        Recurrence(**options)


def test_cron_without_cronsim_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cronsim", None)

    with pytest.raises(MissingExtra, match=r"tgext.asyncjob\[cron\]"):
        Recurrence("@daily")
    assert Recurrence(every=timedelta(1)).next_after(0) == 86_400


# -- @task


def nightly() -> None: ...


def needs_an_argument(_what: int) -> None: ...


def test_task_declares_its_schedule():
    made = task(cron="30 2 * * *", timezone=BERLIN, catch_up=3, priority=5)(nightly)

    assert made.recurrence == Recurrence("30 2 * * *", timezone=BERLIN, catch_up=3)
    assert made.using(priority=7).recurrence is None
    assert task(nightly).recurrence is None
    assert made.priority == 5


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (nightly, {"cron": "30 25 * * *"}, "cron: expected an expression"),
        (nightly, {"catch_up": "none"}, "expected either cron or every"),
        (nightly, {"crom": "@daily"}, "@task: unknown option crom; did you mean cron"),
        (needs_an_argument, {"cron": "@daily"}, "@task with cron or every: expected a function"),
        (lambda: None, {"cron": "@daily"}, "@task with cron or every: expected a module-level"),
    ],
)
def test_declaration_that_cannot_work_fails_at_import(function, options, message):
    with pytest.raises(ConfigError, match=message):
        task(**options)(function)
