"""Processes that are asked for measurements, one question at a time.

Each contender has a process of its own, so that none pays for another's threads, caches or
garbage. Only the one that is asked works; the others wait for a line.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = Path(__file__).resolve().parent / "child.py"


class ChildFailed(Exception):
    """Raised when a process ends instead of answering; its traceback is on stderr."""

    def __init__(self, measure: str, status: int) -> None:
        super().__init__(f"the process that measured {measure!r} ended with status {status}")
        self.measure = measure
        self.status = status


class Child:
    """A running child.py, or another such *program*, under some environment's Python.

    variables: of its environment; None: those of this process.
    """

    def __init__(
        self, python: str, program: Path = PROGRAM, variables: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [python, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, measure: str, **parameters: str | int | bool) -> float:
        """Give the answer of one measurement. Raises ChildFailed when there is none."""
        return float(self._answer(measure, parameters))

    def _answer(self, measure: str, parameters: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"measure": measure, **parameters}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(measure, self._process.wait(10)) from None
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(measure, self._process.wait(10))
        return json.loads(line)

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
