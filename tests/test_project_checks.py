"""``make test`` checks style, types and docs among the tests, ``make fast`` style."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Each collects by make, in a pytest of its own.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("target", "checks"), [("test", ["types", "docs", "lint"]), ("fast", ["lint"])]
)
def test_make_runs_the_checks(target, checks):
    venv = Path(sys.prefix)
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    only_named = "PYTEST=--collect-only -q --ignore-glob=*/test_*.py"

    done = subprocess.run(
        ["make", "--old-file", f"{venv}/.made-test", "--old-file", "browser", target, only_named,
         f"VENV={venv}", "PROCESSES=0"],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    named = [line for line in done.stdout.splitlines() if line.startswith("tests/project_checks")]
    assert named == [f"tests/project_checks.py::test_check[{check}]" for check in checks]
