"""Which samples of py-spy benchmarks/samples.py counts, and what it calls them."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmark_modules import benchmark_module

OURS = "/somewhere/tgext/asyncjob"
THREAD = f"_bootstrap (/lib/threading.py:9);WorkerThread.run ({OURS}/worker/thread.py:108)"
MAIN = "<module> (/b/sqlchild.py:20);enqueue_seconds (/b/sqlmeasures.py:50)"
EXECUTES = f"Statement.execute ({OURS}/backends/sql/statements.py:70)"
DRIVER = "Connection.wait (/v/site-packages/psycopg/connection.py:4)"


@pytest.fixture(scope="module")
def samples() -> ModuleType:
    return benchmark_module("samples")


def test_samples_are_read_with_their_number(samples: ModuleType):
    found = list(samples.samples_in(f"{THREAD};{EXECUTES} 7\n{MAIN};<listcomp> (<string>) 3\n"))

    assert [(len(sample.stack), sample.times) for sample in found] == [(3, 7), (3, 3)]
    assert found[0].stack[-1] == ("Statement.execute", f"{OURS}/backends/sql/statements.py")


@pytest.mark.parametrize(
    ("stack", "is_of_worker", "is_of_caller"),
    [
        (f"{THREAD};{EXECUTES};{DRIVER}", True, False),
        (f"{THREAD};SqlBackend.wait ({OURS}/backends/sql/__init__.py:9)", False, False),
        (f"{MAIN};QueueClient.perform ({OURS}/client.py:47);{EXECUTES}", False, True),
        (f"{MAIN};enqueue (/b/sqlours.py:9)", False, True),
        (f"{MAIN};TaskResult.wait ({OURS}/task_result.py:9)", False, False),
        (MAIN, False, False),
        (f"<module> (/b/sqlchild.py:20);{EXECUTES}", False, False),
    ],
)
def test_samples_of_the_work_count(
    samples: ModuleType, stack: str, is_of_worker: bool, is_of_caller: bool
):
    [sample] = samples.samples_in(f"{stack} 1")

    assert (sample.is_of_worker(), sample.is_of_caller()) == (is_of_worker, is_of_caller)


@pytest.mark.parametrize(
    ("frame", "part"),
    [
        (EXECUTES, "tgext.asyncjob backends/sql"),
        (f"QueueClient.perform ({OURS}/client.py:47)", "tgext.asyncjob"),
        (DRIVER, "waits for PostgreSQL"),
        ("do_commit (/v/site-packages/sqlalchemy/engine/default.py:2)", "in SQLite"),
        ("Connection.execute (/v/site-packages/sqlalchemy/engine/base.py:2)", "sqlalchemy"),
        ("dumps (/lib/json/__init__.py:2)", "Python's own modules"),
    ],
)
def test_part_of_a_frame(samples: ModuleType, frame: str, part: str):
    [sample] = samples.samples_in(f"{frame} 1")

    assert sample.stack[-1].part == part


def test_profile_has_the_share_of_each_part_and_of_what_called_it(samples: ModuleType, capsys):
    text = f"{THREAD};{EXECUTES};{DRIVER} 3\n{THREAD};{EXECUTES} 1\n"

    samples.show("Title", samples.samples_in(text))

    title, *lines = capsys.readouterr().out.split("\n")[1:-1]
    assert title == "Title: 4 samples"
    assert lines[0].startswith("   75 % waits for PostgreSQL ")
    assert "100 % backends/sql/statements.py Statement.execute" in lines[0]
    assert lines[1].strip() == "25 % tgext.asyncjob backends/sql"
