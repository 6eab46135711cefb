"""The kill-soak in its short form, on each database, and that it notices a library that is broken.

The program is ``crash/``; ``make crash`` runs it for longer. Seeds are fixed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crash import fleet, processes
from databases import url_of
from forked_python import run_forked

TESTS = Path(__file__).resolve().parent

#: Seconds for one database; on a machine with nothing else to do it takes an eighth of that.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]


def run(
    module: str, *arguments: str, imports: str = processes.IMPORTS
) -> subprocess.CompletedProcess[str]:
    """Run a program. Its servers are other users', who cannot enter a test's own folder. imports:
    what the processes that it starts import."""
    return run_forked(
        [sys.executable, "-m", module, *arguments],
        imports=f"crash.__main__ crash.timeouts {imports}",
        serves=True,
        cwd=TESTS,
        text=True,
        timeout=160,
    )


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_no_job_is_lost_and_no_effect_doubled_under_kills(database, tmp_path):
    url_of(database, tmp_path)  # needs its server

    ended = run("crash", "--db", database, "--rescues", "3")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "14 kills" in ended.stdout
    assert "lost 0, doubled 0" in ended.stdout
    assert "rescue: p50" in ended.stdout


def test_no_job_is_lost_and_no_effect_doubled_under_kills_of_a_celery_fleet(tmp_path):
    """With Redis; ``python -m crash --engine celery --broker rabbitmq`` does it with RabbitMQ."""
    url_of("postgresql", tmp_path)  # needs its server

    arguments = ("--engine", "celery", "--broker", "redis", "--db", "postgresql")
    ended = run("crash", *arguments, imports=fleet.IMPORTS)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "14 blows" in ended.stdout
    assert "lost 0, doubled 0" in ended.stdout


def test_limits_hold_under_kills_of_a_celery_fleet_and_are_reached_after_them(tmp_path):
    url_of("postgresql", tmp_path)  # needs its server

    ended = run("crash.limits", "--engine", "celery", "--kills", "2", "--jobs", "10")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 kills" in ended.stdout
    assert "left {}: right" in ended.stdout


# Each mutant on one of two databases: that the soak can see what is lost and doubled is the same on
# all, and ``make crash MUTANT=fence`` looks at every one.
@pytest.mark.parametrize(("database", "mutant"), [("sqlite", "fence"), ("postgresql", "split")])
def test_soak_notices_a_library_that_is_broken(database, mutant, tmp_path):
    url_of(database, tmp_path)  # needs its server

    ended = run("crash", "--db", database, "--mutant", mutant)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"the mutant {mutant} was noticed" in ended.stdout


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_worker_has_as_much_after_its_timeouts_as_before(database, tmp_path):
    """Threads, connections, files; ``make timeouts LONG=1`` lets 10,000 of each kind pass."""
    url_of(database, tmp_path)  # needs its server

    ended = run("crash.timeouts", "--db", database)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(ended.stdout.splitlines()) == 5
