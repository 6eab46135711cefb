"""Text of an application's users, on one line of a log or a terminal.

It cannot move the cursor, begin a line or turn the order of letters: what would is shown as its
escape.
"""

from __future__ import annotations

import unicodedata

#: Categories of Unicode that are shown as escapes: controls, formats (those that turn the order
#: of letters are among them), half surrogate pairs, lines and paragraphs, what has no meaning.
_HIDDEN = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
#: Formats that words of some languages, and some emoji, are spelled with.
JOINERS = "\u200c\u200d"


def one_line(text: str) -> str:
    """Return *text* with escapes for line ends and for what is not to be seen."""
    if text.isprintable():
        return text
    return "".join(each if _is_shown(each) else _escape(each) for each in text)


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _HIDDEN or character in JOINERS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
