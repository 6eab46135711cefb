"""Write the output of a command: in any encoding, or to a pipe that was closed.

Commands write nowhere else. The text of an application's users is escaped.
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
    """Write *text* and a line feed; return whether its reader, if there still is one, has it.

    stream: None: Python has none where the command was started without.
    """
    if stream is None:
        return False
    written = "\n".join(map(one_line, text.split("\n"))) + "\n"
    try:
        stream.write(_encodable(written, stream))
        stream.flush()
    except OSError as error:
        # What is left in its buffer would be an error once more at the interpreter's exit.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return isinstance(error, BrokenPipeError)  # `| head -1` has its line
    return True


def one_line(text: str) -> str:
    """Return *text* with escapes for what the output cannot show, line feeds among it."""
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
    """Return *text* filled up to *width* columns, or cut to fit into them."""
    if columns(text) > width:
        kept, left = [], width - len(CUT)
        for character in text:
            left -= _columns(character)
            if left < 0:
                break
            kept.append(character)
        text = "".join(kept) + CUT
    return text + " " * (width - columns(text))
