"""Measure the durable backend of one version in this process: started by versions.py.

The version is the one that PYTHONPATH leads to.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tgext.asyncjob
from answers import answer_all
from hotpath import HotPath

MEASUREMENT_SECONDS = 150.0


class Measures:
    """The questions that versions.py asks."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._path: Any = None

    def open(self, kind: str, folder: str) -> str:
        """Make the tables; the file that was imported, which must be in *folder*."""
        found = str(tgext.asyncjob.__file__)
        if not Path(found).is_relative_to(folder):
            raise RuntimeError(f"expected to import from {folder}, imported {found}")
        self._path = HotPath(self._stack, kind)
        return found

    def close(self) -> None:
        self._stack.close()

    def questions(self) -> dict[str, Callable[..., Any]]:
        asked = ("enqueue", "batch", "claims", "drain")
        ask = {name: self._asker(name) for name in asked}
        return {"open": self.open, "close": self.close, **ask}

    def _asker(self, name: str) -> Callable[..., Any]:
        return lambda **parameters: getattr(self._path, name)(**parameters)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what the library prints
    with ExitStack() as stack:
        answer_all(Measures(stack).questions(), MEASUREMENT_SECONDS, answers)


if __name__ == "__main__":
    main()
