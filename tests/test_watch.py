"""``status --watch`` at a real terminal, with a real worker; and what it draws of hostile jobs."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from sqlalchemy import event

from dashboard_jobs import Shop as Jobs
from databases import sqlite_with_tables
from terminals import Terminal
from test_commands import AWAY, Shop, command, make_shop, shop, start
from tgext.asyncjob import JobQueue
from tgext.asyncjob.__main__ import main
from tgext.asyncjob.cli.sight import Sight, sight_of
from tgext.asyncjob.cli.watch import _next
from tgext.asyncjob.cli.watch_view import view
from tgext.asyncjob.job import TaskError
from webpages import HOSTILE

__all__ = ["command", "make_shop", "shop", "start"]  # fixtures


@pytest.fixture
def watch(shop: Shop) -> Iterator[Callable[..., Terminal]]:
    """Starts ``status --watch`` at a terminal."""
    started: list[Terminal] = []

    def begin(*arguments: str, **options: Any) -> Terminal:
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-W",
            "error",
            "-m",
            "tgext.asyncjob",
            "status",
            "--watch",
        ]
        started.append(Terminal([*command, *shop.address, *arguments], shop.folder, **options))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_view_follows_a_job_of_a_real_worker_until_q(shop, start, watch):
    worker = start(shop)
    shop.enqueue((shop.jobs.held,))
    worker.line("begun")

    terminal = watch()
    terminal.until("RUNNING 1", "SUCCESSFUL 0", "held", "42 %", "nothing has failed", "THREADS")
    shop.open_gate()
    terminal.until("RUNNING 0", "SUCCESSFUL 1", "nothing waits", "nothing runs")
    shop.enqueue((shop.jobs.wrong,))
    terminal.until("FAILED 1", "wrong", "ValueError: a wrong job")
    terminal.press("xq")

    assert terminal.ended() == 0
    assert terminal.is_as_before
    assert "Traceback" not in terminal.drawn


@pytest.mark.slow
@pytest.mark.parametrize("end", ["Ctrl-C", "SIGTERM"])
def test_signal_ends_it_without_a_traceback_and_restores_the_terminal(shop, watch, end):
    shop.enqueue((shop.jobs.note, "x"))
    terminal = watch()
    terminal.until("READY 1", "no living worker serves it", "no worker is alive")

    if end == "Ctrl-C":
        terminal.press("\x03")
    else:
        terminal.process.send_signal(signal.SIGTERM)

    assert terminal.ended() == 0
    assert terminal.is_as_before
    assert "Traceback" not in terminal.drawn


def test_without_a_terminal_it_says_so(shop, command):
    shop.enqueue((shop.jobs.note, "x"))
    code, text = command("status", "--watch")

    assert (code, text.count("\n")) == (2, 1)
    assert "status --watch: expected a terminal" in text


@pytest.mark.parametrize("more", [["asyncjob_x"], ["--status", "FAILED"], ["--limit", "3"]])
def test_what_it_cannot_narrow_is_refused(shop, command, more):
    shop.enqueue((shop.jobs.note, "x"))
    code, text = command("status", "--watch", *more)

    assert code == 2
    assert "it shows the whole queue" in text


def test_json_beside_it_is_refused(shop, capsys):
    with pytest.raises(SystemExit):
        main(["status", *shop.address, "--watch", "--json"])

    assert "not allowed with argument" in capsys.readouterr().err


def test_without_rich_the_extra_is_named(shop, command, monkeypatch):
    shop.enqueue((shop.jobs.note, "x"))
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.delitem(sys.modules, "tgext.asyncjob.cli.watch", raising=False)

    code, text = command("status", "--watch")

    assert code == 2
    assert "status --watch needs packages that are not installed" in text
    assert "tgext.asyncjob[cli]" in text


# -- what it draws


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with JobQueue("sql", threads=0, url=sqlite_with_tables(tmp_path)) as made:
        yield made


def drawn(sight: Sight, width: int, height: int, trouble: str | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(view(sight, ConsoleDimensions(width, height), trouble))
    file: Any = console.file
    return str(file.getvalue()).rstrip("\n").split("\n")


def test_view_fits_the_terminal_whatever_the_jobs_are_called(queue):
    jobs = Jobs(queue)
    jobs.open()
    for number in range(30):
        error = TaskError(f"a.{HOSTILE}", f"[bold]{HOSTILE}\ud800{'x' * 100_000}", "")
        jobs.fail(error, queue_name="f")
        jobs.add(queue_name=f"q{number}" + "y" * 50)
        jobs.start(jobs.add(queue_name="r"), number, HOSTILE * 300, 40, queue_name="r")
    queue.pause("z", by=HOSTILE[:200])

    for width, height in ((80, 24), (40, 10), (200, 60)):
        lines = drawn(sight_of(queue), width, height)
        text = "\n".join(lines)
        assert max(map(cell_len, lines)) <= width
        assert len(lines) <= max(height, 20)
        assert not any(sign in text for sign in ("\0", "\x1b", "\u202e", "\u2066", "\r"))
        assert any(" more" in line for line in lines)


def test_text_of_a_job_is_no_markup(queue):
    jobs = Jobs(queue)
    jobs.fail(TaskError("a.Wrong", "[red]three[/red] is [nothing]", ""))

    assert "Wrong: [red]three[/red] is [nothing]" in "\n".join(drawn(sight_of(queue), 120, 40))


def test_number_of_statements_does_not_depend_on_the_jobs(queue):
    jobs = Jobs(queue)
    jobs.open()
    statements: list[str] = []
    own = threading.get_ident()

    def note(*given: Any) -> None:
        if threading.get_ident() == own:  # another thread stores what jobs have reported
            statements.append(given[2])

    for engine in {queue.backend._dialect.engine, queue.backend._dialect.side_database}:
        event.listen(engine, "before_cursor_execute", note)
    sight_of(queue)
    of_few = len(statements)
    for number in range(20):
        jobs.fail(queue_name="f")
        jobs.start(jobs.add(queue_name=f"q{number}"), 1, None, 9, queue_name=f"q{number}")
    statements.clear()

    sight_of(queue)

    assert len(statements) <= of_few <= 16


def test_database_that_is_away_leaves_what_was_read_last(queue):
    before = sight_of(queue)
    with JobQueue("sql", url=AWAY) as away:
        found, trouble = _next(away, before)

    assert found is before
    assert trouble is not None
    assert any("cannot be read now: the database cannot be used" in line
               for line in drawn(found, 120, 30, trouble))  # fmt: skip
