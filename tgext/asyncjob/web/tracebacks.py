"""Reads the stored text of a traceback: its frames, and which of them are the application's.

The text may be from another machine, or from anything else: what is no frame is not looked at.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from .job_state import MESSAGE_LENGTH, shown
from .lines import several_lines

_FRAME = re.compile(r'\s*(?:\| +)*File "(.{1,400}?)", line (\d{1,9})(?:, in (.{1,200}))?$')

#: Where Python and installed packages have their files, and this package.
_LIBRARY = re.compile(
    r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python3(\.\d+)?[/\\]|[/\\]Python3\d*[/\\]Lib[/\\]"
    r"|^<frozen |[/\\]tgext[/\\]asyncjob[/\\]",
    re.IGNORECASE,
)

#: The most characters of a line that are looked at.
_LINE = 1_000


class Frame(NamedTuple):
    """One frame."""

    path: str
    line: int
    function: str
    code: str  #: the line of source; "" if it was not there

    @property
    def is_application(self) -> bool:
        """Whether it is of the application's own code."""
        return _LIBRARY.search(self.path) is None

    @property
    def place(self) -> str:
        """Where it is, with the last parts of its path."""
        parts = re.split(r"[/\\]", self.path)
        return shown(f"{'/'.join(parts[-3:])}:{self.line} in {self.function}", MESSAGE_LENGTH)


class Traceback(NamedTuple):
    """One stored traceback."""

    frames: list[Frame]  #: in the order of the text
    innermost: Frame | None  #: of the application, and of the last error if that has one
    stored: str  #: the text as it is

    @property
    def text(self) -> str:
        """The text as a page shows it."""
        return several_lines(self.stored)

    @property
    def own(self) -> list[Frame]:
        """The application's frames, the innermost last."""
        return [frame for frame in self.frames if frame.is_application]

    @property
    def others(self) -> int:
        """How many frames are of Python, packages and this package."""
        return len(self.frames) - len(self.own)


def traceback_of(text: str) -> Traceback:
    """Read a traceback as Python prints it."""
    frames: list[Frame] = []
    last: list[Frame] = []  # those of the error that is printed last
    lines = [line[:_LINE] for line in text.splitlines()]
    for line, following in pairwise([*lines, ""]):
        found = _FRAME.match(line)
        if found is not None:
            code = "" if _FRAME.match(following) else following.strip()
            is_code = following.startswith("    ")
            frame = Frame(found[1], int(found[2]), found[3] or "", code if is_code else "")
            frames.append(frame)
            last.append(frame)
        elif line.strip().startswith("Traceback (most recent call last)"):
            last = []
    own = [frame for frame in last if frame.is_application]
    own = own or [frame for frame in frames if frame.is_application]
    return Traceback(frames, own[-1] if own else None, text)
