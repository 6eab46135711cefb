"""Makes text of an application's users safe for one line of a log or a terminal.

Characters that move the cursor, begin a line or reverse the order of letters become escapes.
"""

from __future__ import annotations

import unicodedata

#: Categories of Unicode that are shown as escapes: controls, formats (which include those that
#: reverse the order of letters), surrogates, separators of lines and paragraphs, and code points
#: that are unassigned or private.
_HIDDEN = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
#: Format characters that words of some languages, and some emoji, need.
JOINERS = "\u200c\u200d"


def one_line(text: str) -> str:
    """Return *text* with escapes for line ends and invisible characters."""
    if text.isprintable():
        return text
    return "".join(each if _is_shown(each) else _escape(each) for each in text)


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _HIDDEN or character in JOINERS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
