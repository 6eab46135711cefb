"""What the overview shows of what has ended, and of what waits, beside much more of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from dashboard_jobs import PastDay
from databases import sqlite_with_tables
from test_dashboard import Site
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.statistics import BOUNDS, Counts
from tgext.asyncjob.web import charts, queue_rows
from tgext.asyncjob.web.ended_jobs import lasting
from webpages import HOSTILE, Jobs

#: In the middle of a day, so that no test runs over a boundary.
NOW = 1_700_050_000.0


@pytest.fixture(params=["memory", "sql"])
def queue(request: Any, tmp_path: Path) -> Iterator[JobQueue]:
    options = {"url": sqlite_with_tables(tmp_path)} if request.param == "sql" else {}
    with JobQueue(request.param, threads=0, secret="swordfish", **options) as made:
        yield made


@pytest.fixture
def past(queue: JobQueue, monkeypatch: Any) -> PastDay:
    now = datetime.fromtimestamp(NOW, timezone.utc)
    monkeypatch.setattr("tgext.asyncjob.web.visit.Visit.now", now)
    made = PastDay(NOW)
    monkeypatch.setattr(queue.backend, "statistics", made)
    return made


def part(site: Site, name: str) -> Any:
    return site.get("/").html.find(attrs={"data-part": name})


def rows_of(found: Any) -> list[list[str]]:
    return [
        [" ".join(cell.get_text(" ").split()) for cell in row.find_all(["th", "td"])]
        for row in found.select("tbody tr")
    ]


def test_overview_says_what_has_ended_in_the_last_hour_and_day(queue, past):
    hour, day = rows_of(part(Site(queue), "ended"))

    counts = Counts()
    for each in past.series(past.now - 60, 1).values():
        counts.add(each)
    assert hour[:3] == ["Last hour", f"{counts.done:,}", f"{counts.failed:,}"]
    assert hour[5:] == ["592 ms", "69 s", "2.0 s"]
    assert day[0] == "Last day"
    assert int(day[1].replace(",", "")) > 20 * counts.done


@pytest.mark.parametrize(("span", "number"), [("hour", 60), ("day", 48)])
def test_each_chart_has_a_name_a_description_and_its_numbers_in_a_table(queue, past, span, number):
    site = Site(queue)
    drawn = part(site, span).find_all("svg")
    rows = rows_of(part(site, f"{span}-numbers"))

    names = [each.title.text.partition(":")[0] for each in drawn]
    assert names == [f"{what}, last {span}" for what in ("Done", "Failed", "Durations")]
    ids = {each["id"] for each in site.get("/").html.find_all(id=True)}
    for each in drawn:
        assert each["role"] == "img"
        assert set(each["aria-labelledby"].split()) <= ids
        assert re.search(r"\d+ in all, \d+ at most|^Each bar is a median", each.desc.text)
    assert len(rows) == number
    assert drawn[0].path["d"].count("M") == number
    assert re.fullmatch(r"\d\d \d\d:\d\d", rows[0][0])


def test_overview_has_the_tasks_of_which_most_has_ended(queue, past):
    rows = rows_of(part(Site(queue), "tasks"))

    assert [row[0] for row in rows] == ["shop.orders.send_invoice", "others"]


def test_overview_without_anything_counted_says_so(queue):
    site = Site(queue)

    assert "Nothing that ended within the last day is counted yet." in site.text("/")
    assert site.get("/").html.find("svg") is None
    assert rows_of(part(site, "tasks")) == []


def test_name_of_a_task_is_no_markup(queue, past, monkeypatch):
    monkeypatch.setattr(past, "by_task", lambda _since, _limit: [(HOSTILE, Counts(done=1))])

    assert "<script>alert" not in Site(queue).get("/").text


# -- what waits


def test_queue_shows_the_job_that_was_enqueued_first(queue):
    jobs = Jobs(queue)
    first = jobs.waiting(queue_name="mail")
    jobs.waiting(queue_name="mail")
    jobs.waiting(queue_name="mail", run_after=timedelta(hours=1))

    for path in ("/", "/queues"):
        cell = Site(queue).get(path).html.find("td", attrs={"data-label": "Oldest"})
        assert cell.a["href"].endswith(f"/job?uid={first}")
    assert first in str(part(Site(queue), "oldest"))


def test_numbers_of_a_queue_are_bounded_and_say_so(queue, monkeypatch):
    monkeypatch.setattr(queue_rows, "MOST_READ", 10)
    monkeypatch.setattr(queue_rows, "MOST_LISTED", 5)
    monkeypatch.setattr("tgext.asyncjob.backends.sql.backlog.LEAST_COUNTED", 1)
    jobs = Jobs(queue)
    for _ in range(6):
        jobs.waiting(queue_name="mail")
        jobs.waiting(queue_name="other", run_after=timedelta(hours=1))

    found = {row[0].split()[0]: row for row in rows_of(part(Site(queue), "waiting"))}

    if queue.backend.is_shared:
        assert [found["mail"][1], found["other"][3]] == ["6", "2+"]
    else:
        assert found["mail"][1] == "5+"


# -- charts


def test_bar_of_something_is_seen_and_of_nothing_is_not():
    drawn = charts.bars("a", "done", "title", "text", [0, 1, None, 1_000])

    assert drawn.count("M") == 2
    assert 'd="M5 60v-2h4V60zM15 60v-60h4V60z"' in drawn


def test_durations_are_drawn_on_a_logarithmic_scale():
    drawn = charts.durations("a", "title", "text", [0.001, 1.0], [1.0, 1_000.0])

    assert 'class="bar" d="M0 60v-2h4V60zM5 60v-30h4V60z"' in drawn
    assert 'class="mark-line" d="M0 30h4v3h-4zM5 0h4v3h-4z"' in drawn


def test_title_of_a_chart_is_no_markup():
    assert "<script>" not in charts.bars("a", "b", "<script>", "<script>", [1])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.0, "under 1 ms"), (0.0031, "3.1 ms"), (0.25, "250 ms"), (0.996, "1.0 s"),
        (9.97, "10 s"), (42.4, "42 s"), (100.0, "1.7 min"), (BOUNDS[-1], "60 min"),
        (7_200.0, "2.0 h"), (math.inf, "over 1 h"),
    ],
)  # fmt: skip
def test_duration_has_two_digits(seconds, text):
    assert lasting(seconds) == text
