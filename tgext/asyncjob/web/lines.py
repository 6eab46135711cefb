"""Text of several lines for a page: the lines stay, what is invisible becomes an escape."""

from __future__ import annotations

from ..one_line import one_line

#: The longest line, and the most characters of all, that are shown.
LINE_LENGTH, TEXT_LENGTH = 1_000, 60_000


def several_lines(text: str, length: int = TEXT_LENGTH) -> str:
    """Return *text* in lines of at most LINE_LENGTH characters, and *length* in all."""
    lines = text[:length].expandtabs(4).splitlines()
    found = "\n".join(one_line(_cut(line)) for line in lines)
    return found if len(text) <= length else f"{found}\n..."


def _cut(line: str) -> str:
    return line if len(line) <= LINE_LENGTH else f"{line[:LINE_LENGTH]}..."
