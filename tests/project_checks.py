"""``make check``, a check at a time: what ``make test`` runs beside the tests; in ``make fast``
it is only the quick one, of style.

Before them, on one of the cores, it would take as long as two hundred tests. The name is not that
of a module of tests: who runs pytest by itself does not ask for this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: In the order in which they begin: those that take longest first.
CHECKS = (
    pytest.param("types", marks=pytest.mark.slow),
    pytest.param("docs", marks=pytest.mark.slow),
    "lint",
)


@pytest.mark.parametrize("check", CHECKS)
def test_check(check: str) -> None:
    # without what an outer make has said to its own
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    venv = Path(sys.prefix)

    done = subprocess.run(
        # --old-file: it is the environment that runs this, and must not be made anew now
        ["make", "--old-file", f"{venv}/.made-test", check, f"VENV={venv}"],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
