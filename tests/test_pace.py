"""The estimate of the remaining time, from reports of which only times and values count."""

from __future__ import annotations

import pytest

from tgext.asyncjob.backends.pace import Pace, Speed, seconds_left


def pace_of(*reports: tuple[float, int]) -> Pace:
    """The pace of reports, each a time and a value."""
    (began_at, first), *others = reports
    pace = Pace(1, first, began_at)
    for at, value in others:
        pace.add(value, at)
    return pace


def test_speed_is_that_of_steady_reports() -> None:
    speed = pace_of(*((second, 10 * second) for second in range(10))).speed()

    assert speed is not None
    assert speed.rate == pytest.approx(10)
    assert speed.gap == pytest.approx(1)


@pytest.mark.parametrize(
    "reports",
    [
        [(0, 0)],
        [(0, 0), (10, 5)],  # two say nothing of how regular they are
        [(0, 0), (0.5, 1), (1, 2)],  # a short time
        [(0, 5), (1, 5), (2, 5)],
        [(0, 5), (1, 4), (2, 3)],
        [(9, 0), (8, 1), (7, 2)],  # the clock was set back
    ],
    ids=range(6),
)
def test_speed_is_unknown_rather_than_wrong(reports: list[tuple[float, int]]) -> None:
    assert pace_of(*reports).speed() is None


def test_work_that_was_done_before_the_first_report_does_not_count() -> None:
    """A job that resumes at 80 of 100 has not done 80 in its first second."""
    speed = pace_of((1, 80), (3, 82), (5, 84)).speed()

    assert seconds_left(84, 100, speed, 0) == pytest.approx(16)


def test_slow_first_item_is_forgotten_after_a_while() -> None:
    pace = pace_of((0, 0), (20, 1), *((20 + second, 1 + second) for second in range(1, 61)))

    left = seconds_left(61, 121, pace.speed(), 0)

    assert left is not None
    assert 60 <= left < 65  # the average of all says 79 s


def test_estimate_counts_down_between_two_reports_and_ends_in_a_silence() -> None:
    speed = Speed(rate=1.0, gap=2.0)

    assert [seconds_left(90, 100, speed, ago) for ago in (0, 4, 11, 11.1)] == [10, 6, 0, None]


def test_numbers_without_end_are_no_error() -> None:
    pace = pace_of((0, 0), (1, 10**400), (2, 10**401))

    assert pace.speed() is None
    assert seconds_left(0, 10**400, Speed(1.0, 1.0), 0) is None
