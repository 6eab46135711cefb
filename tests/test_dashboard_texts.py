"""What the dashboard makes of a job's arguments, of tracebacks and of times."""

from __future__ import annotations

import sys
import tracemalloc
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dashboard_jobs import TRACEBACK
from tgext.asyncjob.backends.listing import LastError
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import Job, JobId, TaskError
from tgext.asyncjob.task_options import TaskOptions
from tgext.asyncjob.task_result import NotKept
from tgext.asyncjob.web.arguments import HIDDEN, arguments_of, value_shown
from tgext.asyncjob.web.failure_groups import groups_of
from tgext.asyncjob.web.moments import ago
from tgext.asyncjob.web.tracebacks import traceback_of
from tgext.asyncjob.wording import age_of

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=timezone.utc)


# -- arguments


def login(user: str, password: str = "", *rest: str, pin: int = 0, **more: Any) -> None:
    """Takes arguments of all kinds."""


def with_context(context: Any, album: int) -> None:
    """Takes a context."""


def shown(target: Any, *args: Any, options: TaskOptions | None = None, **kwargs: Any) -> Any:
    job = Job(JobId("x"), Call(target, args, kwargs or None), options or TaskOptions())
    return [tuple(each) for each in arguments_of(job).given]


def test_argument_has_the_name_of_its_parameter() -> None:
    assert shown(login, "ann", "x", "a", "b", pin=7, note="hi") == [
        ("user", "'ann'"), ("password", HIDDEN), ("*rest", "'a'"), ("*rest", "'b'"),
        ("pin", HIDDEN), ("note", "'hi'"),
    ]  # fmt: skip
    assert shown(with_context, 3, options=TaskOptions(takes_context=True)) == [("album", "3")]
    assert shown(with_context, 1, 2, 3) == [("context", "1"), ("album", "2"), ("3", "3")]
    if sys.version_info >= (3, 11):  # in 3.10 it has no signature
        assert shown(print, 1) == [("*args", "1")]
    assert shown(iter, 1) == [("1", "1")]  # it has no signature


@pytest.mark.parametrize(
    "name",
    ["password", "Passwort", "passwd", "user_pass", "PWD", "client_secret", "token", "csrf_token",
     "api_key", "apikey", "APIKEY", "private_key", "credentials", "authorization", "auth", "cookie",
     "session_id", "signature", "key", "pin", "iban", "card_number"],
)  # fmt: skip
def test_value_whose_name_looks_secret_is_hidden(name):
    assert shown(login, **{name: "x"}) == [(name, HIDDEN)]
    assert value_shown({name: "x"}) == f"{{{name!r}: {HIDDEN}}}"


@pytest.mark.parametrize("name", ["passenger", "author", "keyword", "compass", "spinner", "monkey"])
def test_value_whose_name_looks_like_no_secret_is_shown(name):
    assert shown(login, **{name: "x"}) == [(name, "'x'")]


class Rude:
    """Must not be asked for anything."""

    def __repr__(self) -> str:
        raise AssertionError


class RudeText(str):
    """A str, too."""

    def __repr__(self) -> str:
        raise AssertionError


class RudeZone(tzinfo):
    """A time zone of the application."""

    def utcoffset(self, _at: datetime | None) -> timedelta:
        raise AssertionError

    tzname = dst = utcoffset  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, "a", b"b", None, 2.5], "[1, 'a', b'b', None, 2.5]"),
        ((1,), "(1)"),
        ({1}, "{1}"),
        ({"a": {"token": 1}}, "{'a': {'token': (hidden)}}"),
        (Decimal("1.50"), "1.50"),
        (date(2026, 11, 29), "2026-11-29"),
        (Rude(), "<test_dashboard_texts.Rude>"),
        ([RudeText("x")], "[<test_dashboard_texts.RudeText>]"),
        (list(range(23)), f"[{', '.join(map(str, range(20)))}, ... 3 more]"),
        ([[[[[1]]]]], "[[[[<builtins.list>]]]]"),
        ("postgresql://ann:x@db/shop", "'postgresql://(hidden)@db/shop'"),
        ("postgresql://ann:x/y@db/shop", "'postgresql://(hidden)@db/shop'"),
        ("redis://:p@ss@db/0?x=a@b", "'redis://(hidden)@db/0?x=a@b'"),
        (["ftp://ann@a", "https://b/@ann"], "['ftp://(hidden)@a', 'https://b/@ann']"),
        (NOW, "2026-11-29 12:00:00+00:00"),
        (NOW.astimezone(ZoneInfo("Europe/Berlin")), "2026-11-29 13:00:00+01:00"),
        (NOW.replace(tzinfo=RudeZone()), "<datetime.datetime>"),
        (10**400, "a very large number"),
        (NotKept("it is a generator"), "was not kept: it is a generator"),
    ],
    ids=lambda value: value[:20] if type(value) is str else "value",
)
def test_value_is_one_line(value, text):
    assert value_shown(value) == text


@pytest.mark.parametrize("value", ["x" * 10**6, b"x" * 10**6, ["x" * 10**6] * 10**4])
def test_long_value_is_cut(value):
    assert len(value_shown(value)) < 400


def test_of_a_long_value_no_more_is_read_than_is_shown() -> None:
    tracemalloc.start()
    try:
        value: Any = "x" * 600
        for _ in range(4):
            value = [value] * 20  # 96 MB as text
        found = value_shown(value)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found.startswith("[[[['xxx")
    assert most < 1_000_000


def test_value_that_holds_itself_is_shown() -> None:
    value: list[Any] = []
    value.append(value)

    assert value_shown(value) == "[[[[<builtins.list>]]]]"


# -- tracebacks


def test_innermost_frame_is_the_last_one_of_the_application() -> None:
    found = traceback_of(TRACEBACK)

    assert [frame.function for frame in found.own] == ["send_invoice", "total"]
    assert found.innermost is not None
    assert found.innermost.place == "shop/model/money.py:7 in total"
    assert found.innermost.code == "return sum(line.price for line in lines)"
    assert found.others == 2


def test_innermost_frame_is_that_of_the_error_that_was_raised_last() -> None:
    first = (
        'Traceback (most recent call last):\n  File "/srv/a.py", line 1, in first\nKeyError: 1\n'
    )
    middle = "\nDuring handling of the above exception, another exception occurred:\n\n"
    last = 'Traceback (most recent call last):\n  File "/srv/b.py", line 2, in last\nOSError\n'
    foreign = last.replace("/srv/b.py", "/srv/venv/lib/python3.12/site-packages/b.py")

    assert traceback_of(first + middle + last).innermost.function == "last"
    assert traceback_of(first + middle + foreign).innermost.function == "first"
    assert traceback_of(foreign).innermost is None


@pytest.mark.parametrize(
    ("path", "is_own"),
    [
        ("/srv/shop/model.py", True),
        ("C:\\shop\\model.py", True),
        ("/srv/shop/lib/python/model.py", True),
        ("/usr/lib/python3.11/socket.py", False),
        ("/usr/lib/python3/dist-packages/x.py", False),
        ("C:\\Python311\\Lib\\socket.py", False),
        ("C:\\shop\\venv\\Lib\\site-packages\\x.py", False),
        ("<frozen importlib._bootstrap>", False),
        ("/src/tgext/asyncjob/worker/attempt.py", False),
        ("<string>", True),
    ],
)
def test_frame_is_of_the_application_by_its_path(path, is_own):
    [frame] = traceback_of(f'  File "{path}", line 3, in f').frames

    assert frame.is_application is is_own


@pytest.mark.parametrize(
    "text",
    ["", "\n", "x" * 100_000, '  File "', '  File "", line 1', '  File "a", line x, in y',
     '  File "a", line ' + "9" * 50_000, "  File " * 10_000],
)  # fmt: skip
def test_text_that_is_no_traceback_has_no_frames(text):
    assert traceback_of(text).frames == []


def failed(name: Any, minutes: int, *errors: TaskError) -> LastError:
    at = NOW - timedelta(minutes=minutes)
    return LastError(f"{name.__name__}{minutes}", name.__name__, at, errors[-1] if errors else None)


def test_failures_of_the_same_task_class_and_place_are_one_group() -> None:
    one, other = TaskError("a.B", "1", TRACEBACK), TaskError("a.C", "2", TRACEBACK)
    jobs = [
        failed(login, 1, one), failed(login, 2, other), failed(with_context, 3, one),
        failed(login, 4, other, one), failed(login, 5),
    ]  # fmt: skip

    groups = groups_of(jobs)

    assert [len(group.uids) for group in groups] == [2, 1, 1, 1]
    assert groups[0].uids == ["login1", "login4"]
    assert (groups[0].first, groups[0].last) == (
        NOW - timedelta(minutes=4), NOW - timedelta(minutes=1),
    )  # fmt: skip
    assert len({group.key for group in groups}) == 4
    assert [group.key for group in groups_of(jobs)] == [group.key for group in groups]


def test_frames_that_many_failures_share_are_read_once(monkeypatch) -> None:
    read: list[str] = []

    def reads(text: str) -> Any:
        read.append(text)
        return traceback_of(text)

    monkeypatch.setattr("tgext.asyncjob.web.failure_groups.traceback_of", reads)
    frames, _, _ = TRACEBACK.rstrip().rpartition("\n")
    elsewhere = frames.replace("line 41", "line 42").replace("line 7", "line 8")
    jobs = [
        failed(login, number, TaskError("a.B", f"order {number}", f"{text}\nB: order {number}\n"))
        for text in (frames, elsewhere)
        for number in range(3)
    ]

    assert sorted(len(group.uids) for group in groups_of(jobs)) in ([3, 3], [6])
    assert len(read) == 2


def test_frames_differ_whatever_of_them_a_message_repeats() -> None:
    frame = '  File "/srv/shop/a.py", line {}, in total\n    pay()\n'
    text = "Traceback (most recent call last):\n" + frame + "shop.Broken\n"  # a class of its own
    jobs = [
        failed(login, line, TaskError("shop.Broken", "total", text.format(line))) for line in (1, 2)
    ]

    assert len(groups_of(jobs)) == 2


# -- times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (9, "just now"), (-9, "just now"), (19, "10 s ago"), (59, "50 s ago"),
     (60, "1 min ago"), (5_399, "89 min ago"), (5_400, "1 h ago"), (86_400, "24 h ago"),
     (129_600, "1 d ago"), (864_000, "10 d ago"), (-7_200, "in 2 h")],
)  # fmt: skip
def test_time_is_told_in_coarse_steps(seconds, text):
    found = ago(NOW - timedelta(seconds=seconds), NOW)

    assert found.striptags() == text
    assert "2026-1" in found.split('title="')[1]


def test_instant_is_the_title() -> None:
    assert ago(NOW, NOW) == (
        '<time datetime="2026-11-29T12:00:00+00:00" title="2026-11-29 12:00:00 UTC">just now</time>'
    )
    assert ago(None, NOW) == "-"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3_600), ("1d", 86_400), ("0", 0),
     ("", None), ("m", None), ("-1h", None), ("1w", None), ("1.5h", 5_400), ("\u0663h", None),
     ("9" * 30, None), ("36526d", None), ("1 h", None)],
)  # fmt: skip
def test_age_is_read(text, seconds):
    assert age_of(text) == (None if seconds is None else timedelta(seconds=seconds))
