"""The kill-soak in its short form, on each database, and that it notices a library that is broken.

The program is ``crash/``; ``make crash`` runs it for longer. Seeds are fixed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from databases import url_of
from forked_python import run_forked

TESTS = Path(__file__).resolve().parent

#: Seconds for one database; on a machine with nothing else to do it takes an eighth of that.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program. Its servers are other users', who cannot enter a test's own folder."""
    return run_forked(
        [sys.executable, "-m", "crash", *arguments],
        imports="crash.__main__",
        cwd=TESTS,
        text=True,
        timeout=160,
    )


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_no_job_is_lost_and_no_effect_doubled_under_kills(database, tmp_path):
    url_of(database, tmp_path)  # needs its server

    ended = soak("--db", database, "--rescues", "5")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "14 kills" in ended.stdout
    assert "lost 0, doubled 0" in ended.stdout
    assert "rescue: p50" in ended.stdout


@pytest.mark.parametrize("mutant", ["fence", "split"])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_soak_notices_a_library_that_is_broken(database, mutant, tmp_path):
    url_of(database, tmp_path)  # needs its server

    ended = soak("--db", database, "--mutant", mutant)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"the mutant {mutant} was noticed" in ended.stdout


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_worker_has_as_much_after_its_timeouts_as_before(database, tmp_path):
    """Threads, connections, files; ``make timeouts LONG=1`` lets 10,000 of each kind pass."""
    url_of(database, tmp_path)  # needs its server

    ended = subprocess.run(
        [sys.executable, "-m", "crash.timeouts", "--db", database],
        cwd=TESTS, capture_output=True, text=True, timeout=160,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(ended.stdout.splitlines()) == 5
