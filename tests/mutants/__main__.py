"""Run the named tests of each mutant in a copy of the project, and print which one fails.

The exit status is 0 if every mutant was killed, by a test that passes without it; 1 if one has
survived, if its text does not occur exactly once in its file, or if its tests did not run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mutants.table import MUTANTS, PACKAGE, Mutant

PROJECT = Path(__file__).resolve().parents[2]

#: What the copy does without.
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "_build", "build", "dist")

#: Seconds that one test may take, and all tests of one mutant: then it hangs.
TEST_SECONDS, MUTANT_SECONDS = 30, 300

#: How the summary of pytest names a test that has failed, and why.
FAILED = re.compile(
    r"^FAILED (?P<test>\S+::[^[\n]*?(?:\[.*?\])?)(?: - (?P<why>.*))?$", re.MULTILINE
)


class Verdict(NamedTuple):
    """What the tests of one mutant came to."""

    mutant: Mutant
    killer: str | None  #: the first test that has failed
    said: str  #: for the table
    seconds: float


def main(words: Sequence[str]) -> int:
    wanted = [each for each in MUTANTS if all(word in f"{each.name} {each.file}" for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "project"
        shutil.copytree(PROJECT, copy, ignore=LEFT_OUT)
        check_import(copy)
        verdicts = [judged(copy, each) for each in wanted]
        alone = failing_alone(copy, {each.killer for each in verdicts if each.killer})
    for test in sorted(alone):
        say(f"{test} fails without a mutant, too: it has killed none")
    alive = [each for each in verdicts if each.killer is None or each.killer in alone]
    say(f"{len(verdicts)} mutants, {len(verdicts) - len(alive)} killed")
    return 1 if alive or not verdicts else 0


def check_import(copy: Path) -> None:
    """See that the copy is what is imported, before what is installed."""
    code = "import tgext.asyncjob as ours; print(ours.__file__)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, cwd=copy.parent, env=environment(copy), check=True, capture_output=True, text=True
    )
    if Path(found.stdout.strip()) != copy / PACKAGE / "__init__.py":
        raise RuntimeError(f"expected tgext.asyncjob of {copy}, got that of {found.stdout.strip()}")


def environment(copy: Path) -> dict[str, str]:
    # A compiled module of the mutant before may look as new as this one.
    more = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "FAST": "1", "COLUMNS": "999"}
    return {**os.environ, **more}


def judged(copy: Path, mutant: Mutant) -> Verdict:
    """Run the tests of one mutant, and print its line of the table."""
    begun_at = time.monotonic()
    path = copy / PACKAGE / mutant.file
    original = path.read_text("utf-8")
    if (times := original.count(mutant.text)) != 1:
        killer, said = None, f"NOT MADE: its text is {times} times in {mutant.file}"
    else:
        path.write_text(original.replace(mutant.text, mutant.replaced_by), "utf-8")
        try:
            killer, said = verdict(*run_tests(copy, *shlex.split(mutant.tests)))
        finally:
            path.write_text(original, "utf-8")
    made = Verdict(mutant, killer, said, time.monotonic() - begun_at)
    say(f"{mutant.name} | {made.said} | {made.seconds:.1f}")
    return made


def run_tests(copy: Path, *given: str) -> tuple[int | None, str]:
    """Return the exit status of pytest, None where it does not end, and what it has printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider"]
    command += ["-m", "not slow", "-o", f"timeout={TEST_SECONDS}", *given]
    with subprocess.Popen(
        command, cwd=copy / "tests", env=environment(copy), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as running:  # fmt: skip
        try:
            printed, _ = running.communicate(timeout=MUTANT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)  # with all that the tests have started
            return None, ""
    return running.returncode, printed


def verdict(status: int | None, printed: str) -> tuple[str | None, str]:
    """Return the test that has killed the mutant, and what the table says."""
    if status is None:
        return "", f"killed by a hang of more than {MUTANT_SECONDS} s"
    found = FAILED.search(printed)
    if found is not None:
        hangs = "Timeout" in (found["why"] or "") and f"{TEST_SECONDS}.0s" in found["why"]
        return found["test"], found["test"] + (f", by {TEST_SECONDS} s of hanging" if hangs else "")
    if status == 0 and " passed" in printed:
        return None, "SURVIVED"
    return None, f"NOT TESTED: {printed.strip().splitlines()[-1:]}"


def failing_alone(copy: Path, tests: set[str]) -> set[str]:
    """Return those of the tests that fail in the copy as it is; all, if that is not known."""
    if not tests:
        return set()
    more = ["--maxfail=999", "-m", "slow or not slow", *sorted(tests)]
    status, printed = run_tests(copy, *more)
    found = {each["test"] for each in FAILED.finditer(printed)}
    return found or (tests if status != 0 else set())


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
