"""What commands write: to an output of any encoding, to a reader that has gone, to a full disk.

Commands run in processes of their own, since the encoding is that of a process.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needs import need
from tgext.asyncjob import JobQueue
from tgext.asyncjob.__main__ import main
from tgext.asyncjob.cli import output
from tgext.asyncjob.cli.command_result import table

pytestmark = pytest.mark.timeout(60)

JOBS = """
from tgext.asyncjob import asyncjob_set_progress

def größe_日本():
    asyncjob_set_progress(1, {"name": {"日本"}, "much": float("nan")}, 2)
    raise ValueError("große Datei: 日本 \\x1b[2J \\u202e \\x7f end")
"""

#: What a command may find as its output.
ENCODINGS = [
    {},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "utf-16"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]


#: Runs one command after the other, as they stand between the words "then"; after what each has
#: written there is a line with its exit code.
ONE_AFTER_THE_OTHER = """
import itertools, sys
from tgext.asyncjob.__main__ import main

for is_between, words in itertools.groupby(sys.argv[1:], "then".__eq__):
    if not is_between:
        print("exit code", main(list(words)))
"""


class Shop:
    """A SQLite database with one failed job of a name that ASCII does not hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/jobs.db?timeout=30"
        jobs = importlib.import_module("größe_jobs")
        with JobQueue("sql", url=self.url, threads=0) as queue:
            self.uid = queue.perform(vars(jobs)["größe_日本"])
            queue.run_pending()

    def run(self, *arguments: str, **to: Any) -> Any:
        """Run a command as a process of its own, which has written all that it will."""
        outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **to}
        return subprocess.run(
            [sys.executable, "-m", "tgext.asyncjob", arguments[0], "--url", self.url,
             *arguments[1:]],
            cwd=self.folder, check=False, **outputs,
        )  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    (tmp_path / "größe_jobs.py").write_text(JOBS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Shop(tmp_path)
    del sys.modules["größe_jobs"]


@pytest.mark.slow
@pytest.mark.parametrize("more", ENCODINGS, ids=lambda more: "-".join(more.values()) or "as it is")
def test_command_writes_to_an_output_of_any_encoding(shop: Shop, more: dict[str, str]) -> None:
    encoding = more.get("PYTHONIOENCODING", "utf-8")
    words = ["status", shop.uid, "then", "status", shop.uid, "--json", "then", "retry", shop.uid]

    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER, *words, "größe"],
        env={**os.environ, "ASYNCJOB_URL": shop.url, **more},
        cwd=shop.folder, capture_output=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, b"")
    written = done.stdout.decode(encoding)
    assert re.findall(r"^exit code (\d)$", written, re.M) == ["0", "0", "1"]
    text, as_json, all_of_them, _ = re.split(r"^exit code .*\n", written, flags=re.M)
    assert f"{shop.uid}  FAILED" in text
    assert "e Datei" in text
    assert r"\x1b[2J \u202e \x7f end" in text
    [found] = json.loads(as_json)
    assert found["progress"]["data"] == {"name": ["日本"], "much": None}
    assert "waits again" in all_of_them


def gone_reader() -> int:
    """The end for writing of a pipe that nobody reads, as after ``| head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.slow
def test_command_whose_reader_has_gone_has_done_what_it_should(shop: Shop) -> None:
    writer = gone_reader()
    done = shop.run("retry", shop.uid, stdout=writer)
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")
    with JobQueue("sql", url=shop.url, threads=0) as queue:
        assert queue.result(shop.uid).status == "READY"


def test_error_to_a_reader_that_has_gone_keeps_its_exit_code(shop: Shop) -> None:
    writer = gone_reader()
    done = shop.run("retry", shop.uid, "--table-prefix", "of a table!", stderr=writer)
    os.close(writer)

    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.slow
def test_disk_that_is_full_is_an_exit_code_of_its_own(shop: Shop) -> None:
    need(os.path.exists("/dev/full"), "/dev/full")
    with open("/dev/full", "w") as full:
        done = shop.run("status", stdout=full)

    assert (done.returncode, done.stderr.count(b"\n")) == (4, 1)


@pytest.mark.slow
def test_command_without_an_output_ends_with_the_same_exit_code(shop: Shop) -> None:
    done = shop.run("status", stdout=None, preexec_fn=lambda: os.close(1))

    assert (done.returncode, done.stderr.count(b"\n")) == (4, 1)


def test_interrupted_command_ends_without_a_traceback(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(JobQueue, "result", interrupted)

    assert main(["status", "--url", shop.url, shop.uid]) == 130
    assert capsys.readouterr() == ("", "")


# -- texts of an application's users


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x1b[2J\x07\x9b1m", r"\x1b[2J\x07\x9b1m"),
        ("abc\u202edcba\u2066", r"abc\u202edcba\u2066"),
        ("half \udcff", r"half \udcff"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("größe 日本 👍 क\u200dष\u00a0!", "größe 日本 👍 क\u200dष\u00a0!"),
    ],
)
def test_text_that_would_move_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert output.one_line(text) == shown
    assert table([text], [[text]], width=0).splitlines() == [shown, shown]


def test_table_with_wide_characters_is_aligned_and_cut_to_columns() -> None:
    rows = [["日本" * 20, 1], ["plain", 22], ["e\u0301te\u0301", 333]]

    found = table(["NAME", "N"], rows, width=30).splitlines()

    assert [output.columns(line.rpartition(" ")[0]) for line in found] == [26, 26, 26, 26]
    assert max(map(output.columns, found)) <= 30
    assert found[1].startswith("日本")
    assert "..." in found[1]


def test_escape_counts_with_the_columns_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))

    found = table(["NAME", "N"], [["é", 1], ["plain", 2]], width=0).splitlines()

    assert found == ["NAME   N", "\\xe9   1", "plain  2"]
