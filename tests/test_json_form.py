"""The form in which JSON gets any value: never an error, never NaN."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples import examples
from tgext.asyncjob import JobQueue, asyncjob_set_progress
from tgext.asyncjob.json_form import LEFT_OUT, MOST_VALUES, json_form


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    y: object


class Speaks:
    def __json__(self) -> object:
        return {"said": {1}}


class Raises:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class RaisesInJson:
    def __json__(self) -> object:
        raise RuntimeError("no JSON")


Pair = namedtuple("Pair", "a b")

FORMS = [
    (None, None),
    (True, True),
    (7, 7),
    (1.5, 1.5),
    ("größe", "größe"),
    ("half \ud800", "half \\ud800"),
    (float("nan"), None),
    ([float("inf"), -float("inf")], [None, None]),
    ({1, 2}, [1, 2]),
    (frozenset([1]), [1]),
    ((1, (2,)), [1, [2]]),
    (deque([1, 2]), [1, 2]),
    (Pair(1, {2}), [1, [2]]),
    (b"x", "x"),
    (bytearray(b"\xff\xc3\xa9"), "\\xffé"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (timedelta(seconds=5), 5.0),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "2026-01-02T03:04:05+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (Decimal("1.10"), "1.10"),
    (Decimal("NaN"), "NaN"),
    (PurePosixPath("a/b"), "a/b"),
    ({(1, 2): "x"}, {"(1, 2)": "x"}),
    ({None: 1, True: 2, 3: 4, 1.5: 5, Colour.RED: 6},
     {"null": 1, "true": 2, "3": 4, "1.5": 5, "red": 6}),
    (OrderedDict(a={1}), {"a": [1]}),
    (UserDict(a={1}), {"a": [1]}),
    (Point(1, {2}), {"x": 1, "y": [2]}),
    (Point, f"<class '{__name__}.Point'>"),
    (Speaks(), {"said": [1]}),
    (ValueError("why"), "why"),
    (1j, "1j"),
    (10**5000, hex(10**5000)),
    (Raises(), "<Raises>"),
    ({Raises(): 1}, {"<Raises>": 1}),
    (RaisesInJson(), "<RaisesInJson>"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda value: type(value).__name__)
def test_value_of_any_kind_has_a_form(value: object, form: object) -> None:
    found = json_form(value)

    assert found == form
    assert json.loads(json.dumps(found, allow_nan=False)) == form


def test_what_is_in_itself_ends() -> None:
    value: list[Any] = [1]
    value.append({"again": value})

    assert json_form(value) == [1, {"again": LEFT_OUT}]


def test_the_same_value_twice_is_there_twice() -> None:
    same = [1]

    assert json_form([same, same]) == [[1], [1]]


def test_what_is_too_deep_or_too_many_is_left_out() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    many: list[Any] = []
    for _ in range(100):
        many = [many, many]

    assert LEFT_OUT in json.dumps(json_form(deep), allow_nan=False)
    assert json.dumps(json_form(many), allow_nan=False).count(LEFT_OUT) > 1
    assert len(json_form(list(range(MOST_VALUES * 3)))) <= MOST_VALUES + 1


@settings(deadline=None, max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.decimals()
        | st.text(st.characters()) | st.uuids() | st.datetimes() | st.timedeltas(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner),
    )
)  # fmt: skip
def test_form_of_a_value_is_json(value: object) -> None:
    found = json_form(value)

    assert json_form(found) == found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    json.dumps(found, ensure_ascii=False).encode()


def report(data: object) -> None:
    asyncjob_set_progress(1, data, 2)


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda value: type(value).__name__)
def test_result_shows_reported_data_of_any_kind_as_json(value: object, form: object) -> None:
    with JobQueue(threads=0) as queue:
        uid = queue.perform(report, value)
        queue.run_pending()

        found = queue.result(uid).__json__()

    assert found["progress"] == {"value": 1, "data": form, "total": 2}
    json.dumps(found, allow_nan=False)
