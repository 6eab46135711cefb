"""The table of ``make mutants`` fits the code, and only a test that fails kills a mutant."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mutants.__main__ import verdict
from mutants.table import MUTANTS, PACKAGE, Mutant

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])
def test_text_of_a_mutant_occurs_once_and_its_tests_are_there(mutant: Mutant) -> None:
    module = shlex.split(mutant.tests)[0]

    code = (PROJECT / PACKAGE / mutant.file).read_text("utf-8")

    assert code.count(mutant.text) == 1
    assert mutant.text != mutant.replaced_by
    compile(code.replace(mutant.text, mutant.replaced_by), mutant.file, "exec")
    assert (PROJECT / "tests" / module).is_file()


@pytest.mark.parametrize(
    ("status", "printed", "killer", "said"),
    [
        (
            1,
            "FAILED test_a.py::test_b[x - y] - ValueError: z\n1 failed",
            "test_a.py::test_b[x - y]",
            "",
        ),
        (0, "3 passed in 1s", None, "SURVIVED"),
        (0, "3 skipped in 1s", None, "NOT TESTED"),
        (5, "3 deselected in 1s", None, "NOT TESTED"),
        (2, "ERROR test_a.py - SyntaxError: invalid syntax\n1 error", None, "NOT TESTED"),
        (1, "ERROR test_a.py::test_b - OperationalError\n1 error", None, "NOT TESTED"),
    ],
)
def test_mutant_is_killed_by_a_test_that_fails_and_by_nothing_else(
    status: int, printed: str, killer: str | None, said: str
) -> None:
    found, line = verdict(status, printed)

    assert found == killer
    assert line.startswith(said or str(killer))
