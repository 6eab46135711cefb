"""Writes the output of a command, in any encoding, also to a closed pipe.

Commands write nowhere else. Text of an application's users is escaped.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from contextlib import suppress
from typing import TextIO

from ..one_line import JOINERS
from ..one_line import one_line as escaped

#: What ends a text that was cut.
CUT = "..."


def write(text: str, stream: TextIO | None) -> bool:
    """Write *text* and a line feed; False if that failed. A closed pipe is no failure.

    stream: None if the command was started without it.
    """
    if stream is None:
        return False
    written = "\n".join(map(one_line, text.split("\n"))) + "\n"
    try:
        stream.write(_encodable(written, stream))
        stream.flush()
    except OSError as error:
        # The rest of its buffer would raise again at the interpreter's exit.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return isinstance(error, BrokenPipeError)  # `| head -1` has read its line
    return True


def one_line(text: str) -> str:
    """Return *text* with escapes for characters that the output cannot show, and line feeds."""
    return _encodable(escaped(text), sys.stdout)


def _encodable(text: str, stream: TextIO | None) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def columns(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if character in JOINERS or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fitted(text: str, width: int) -> str:
    """Return *text* padded, or cut, to *width* columns."""
    if columns(text) > width:
        kept, left = [], width - len(CUT)
        for character in text:
            left -= _columns(character)
            if left < 0:
                break
            kept.append(character)
        text = "".join(kept) + CUT
    return text + " " * (width - columns(text))
