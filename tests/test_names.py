"""Names of queues and calls break no list, no log line and no database.

A queue's name goes into comma-separated lists (the option ``queues``, ``--queues``, the registry of
workers), into log lines and into columns. Names that an earlier release took are still served.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from sqlqueues import KINDS, Place, nothing, place_of
from tgext.asyncjob import ConfigError, JobQueue, Task, TaskResultStatus, task
from tgext.asyncjob.__main__ import main
from tgext.asyncjob.options import Options

BAD = (
    "mail,bulk", "mail\nCRITICAL forged", "mail\0", "mail\r", "mail ", " mail", "ma il", "",
    "x" * 65,
    "m\xe4il", "mail\u2028", "\u0663", "mail'", "mail;", "*", "mail\n", None, 7, b"mail",
)  # fmt: skip
GOOD = ("mail", "Mail", "0", "a.b:c-d_e", "x" * 64)


@pytest.fixture(scope="module", params=KINDS)
def module_place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    module_place.close_queues()
    module_place.empty()


declared = task(nothing)


@pytest.mark.parametrize("name", BAD)
def test_name_that_no_queue_may_have_is_refused_where_a_task_is_declared(name):
    for declare in (
        lambda: task(queue_name=name)(nothing),
        lambda: declared.using(queue_name=name),
        lambda: Task(func=nothing, queue_name=name),
    ):
        with pytest.raises(ConfigError, match="queue_name: expected a name of 1 to 64"):
            declare()


@pytest.mark.parametrize("name", [name for name in BAD if name != "mail,bulk"])
def test_name_that_no_queue_may_have_is_refused_among_the_queues_to_serve(name):
    with pytest.raises(ConfigError, match="expected one or more names"):
        JobQueue(queues=["default", name])


def test_name_with_a_comma_is_refused_in_a_list_and_two_names_in_text():
    with pytest.raises(ConfigError, match="each of 1 to 64"):
        Options.of({"queues": ["mail,bulk"]})

    assert Options.of({"queues": " mail,\n bulk"}).queues == ("mail", "bulk")


@pytest.mark.parametrize("text", ["mail,,bulk", "ma il", "mail\0", "m\xe4il", ",", ""])
def test_name_that_no_queue_may_have_is_refused_on_the_command_line(text, tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/jobs.db"

    with pytest.raises(SystemExit) as ended:
        main(["worker", "--url", url, "--burst", "--queues", text])

    assert ended.value.code == 2
    assert "expected names, separated by commas" in capsys.readouterr().err


@pytest.mark.parametrize("name", GOOD)
def test_name_that_a_queue_may_have_is_served(name):
    with JobQueue(threads=0, queues=[name]) as queue, queue.as_current():
        result = declared.using(queue_name=name).enqueue()

        assert queue.run_pending() == 1
        assert queue.result(result.id).status is TaskResultStatus.SUCCESSFUL


@pytest.mark.parametrize("name", ["mail,bulk", "m\xe4il", "old name ", "a\nb"])
def test_job_of_a_queue_whose_name_is_refused_today_still_runs(place, name):
    queue = place.queue(secret=None)  # a signature would cover the name
    with queue.as_current():
        result = declared.using(max_attempts=2, timeout=9).enqueue()
    jobs = place.tables.jobs
    with place.engine.begin() as connection:
        connection.execute(update(jobs).values(queue_name=name))

    assert queue.run_pending() == 1
    assert queue.result(result.id).status is TaskResultStatus.SUCCESSFUL


# -- names and texts in log lines


def test_what_a_job_raises_does_not_look_like_a_line_of_ours(caplog):
    def job() -> None:
        raise ValueError("first\nERROR job=asyncjob_x forged\x1b[2K\r\u2028\u202e")

    with JobQueue(threads=0) as queue, caplog.at_level(logging.INFO):
        queue.perform(job)
        queue.run_pending()

    [message] = [record.getMessage() for record in caplog.records if "failed" in record.msg]
    assert (
        "no attempts left: first\\nERROR job=asyncjob_x forged\\x1b[2K\\r\\u2028\\u202e" in message
    )
    assert "\n" not in message


def test_name_of_a_call_does_not_look_like_a_line_of_ours(caplog):
    def job() -> None: ...

    job.__qualname__ = "job\nERROR forged"
    with JobQueue(threads=0) as queue, caplog.at_level(logging.INFO):
        queue.perform(job)
        queue.run_pending()

    messages = [record.getMessage() for record in caplog.records]
    assert any("job\\nERROR forged succeeded" in message.replace("successful", "succeeded")
               for message in messages)  # fmt: skip
    assert not any("\n" in message for message in messages)


def test_name_of_a_call_that_no_database_holds_is_escaped(place):
    def job() -> int:
        return 1

    job.__qualname__ = "job\0\ud800"
    queue = place.queue()
    uid = queue.perform(job)

    assert queue.run_pending() == 1
    assert queue.result(uid).return_value == 1
    assert "\0" not in queue.result(uid).name


def test_lines_of_the_application_are_left_as_they_are(caplog: Any, tmp_path: Path) -> None:
    def job() -> None:
        logging.getLogger("shop").info("two\nlines %s", "x\ny")

    with JobQueue(threads=0) as queue, caplog.at_level(logging.INFO):
        queue.perform(job)
        queue.run_pending()

    assert any("two\nlines x\ny" in record.getMessage() for record in caplog.records)
