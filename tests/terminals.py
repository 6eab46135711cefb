"""A program at a terminal: what it draws is read, keys are pressed, and how it leaves is seen."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: The longest that a text may take to come. What is right comes nowhere near it.
PATIENCE_SECONDS = 60.0

#: Sequences that move the cursor, colour, and switch screens.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>])")

#: The shell opens the terminal as the first of its session, which makes it the one of Ctrl-C.
_AT_TERMINAL = 'exec "$@" <"$0" >"$0" 2>&1'


class Terminal:
    """A pseudo-terminal with a program at it."""

    def __init__(self, command: Sequence[str], folder: Path, size: tuple[int, int] = (40, 160)):
        self._master, self._slave = pty.openpty()
        self._before = self._modes()
        lines, columns = map(str, size)
        environ = {**os.environ, "TERM": "xterm-256color", "LINES": lines, "COLUMNS": columns}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            ["/bin/sh", "-c", _AT_TERMINAL, os.ttyname(self._slave), *command],
            cwd=folder, env=environ, start_new_session=True,
        )  # fmt: skip
        self.drawn = ""  #: all that it has written

    def _modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def until(self, *words: str) -> str:
        """Read on until all *words* are there, in the order of a screen; return what was read."""
        pattern = re.compile(".*?".join(map(re.escape, words)), re.DOTALL)
        begin, until = len(self.drawn), time.monotonic() + PATIENCE_SECONDS
        while True:
            text = _ESCAPES.sub("", self.drawn[begin:])
            if pattern.search(text):
                return text
            left = until - time.monotonic()
            assert left > 0, f"no {words} in {text[-3000:]!r}"
            self._read(left)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        read = os.read(self._master, 65536)
        self.drawn += read.decode("utf-8", "replace")
        return bool(read)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def ended(self) -> int:
        """Wait for the end; return the exit code."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:  # it may wait for a reader
            if time.monotonic() > until:
                self.process.send_signal(signal.SIGABRT)  # -X faulthandler: it writes its stacks
                while self._read(1.0):
                    pass
                raise AssertionError(_ESCAPES.sub("", self.drawn[-6000:]))
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    @property
    def is_as_before(self) -> bool:
        """Whether its modes are those from before, and cursor and first screen were restored."""
        last = {
            kind: self.drawn.rfind(f"\x1b[?{kind}") for kind in ("1049h", "1049l", "25l", "25h")
        }
        is_restored = last["1049l"] > last["1049h"] >= 0 and last["25h"] > last["25l"] >= 0
        return self._modes() == self._before and is_restored

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)
        os.close(self._slave)
