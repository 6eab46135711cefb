"""Why a tick of a schedule has no job, or has one out of its turn: as text in a row, and read back
from it as a ``Sentence``, so that a page can say it in another language."""

from __future__ import annotations

import re

from .sentence import Sentence

#: The tick of ``run_now``.
RUN_NOW = Sentence("run now")

_PAUSED = Sentence("paused")
_PAUSED_BY = Sentence("paused by %(user)s", user="")
_DUPLICATE = Sentence("a duplicate of %(uid)s", uid="")
_LATE = Sentence(
    "seen %(number)s s after its instant; catch_up is %(catch_up)s", number="", catch_up=""
)
_REFUSED = Sentence("no job can be enqueued: %(error)s", error="")
_TOGETHER = Sentence(
    "%(reason)s; with it %(number)s before, from %(instant)s", reason="", number="", instant=""
)

#: The first one that fits a text is its own: each of the others may end like the first.
_FORMS = (_TOGETHER, _REFUSED, _LATE, _PAUSED_BY, _DUPLICATE, _PAUSED, RUN_NOW)


def paused(user: str | None) -> Sentence:
    """Return the reason for which a paused schedule skips its ticks. user: who has paused it; None:
    that is not known."""
    return _PAUSED if user is None else Sentence(_PAUSED_BY.text, user=user)


def duplicate_of(uid: str) -> Sentence:
    """Return the reason of a tick whose job has given way to another one of its unique key."""
    return Sentence(_DUPLICATE.text, uid=uid)


def late(seconds: float, catch_up: str | int) -> Sentence:
    """Return the reason for which ``catch_up`` skips a tick that was seen so late."""
    return Sentence(_LATE.text, number=f"{seconds:.0f}", catch_up=repr(catch_up))


def refused(error: Exception) -> Sentence:
    """Return the reason of a tick whose call cannot be enqueued."""
    return Sentence(_REFUSED.text, error=f"{type(error).__name__}: {error}")


def together(reason: str, number: int, first: str) -> Sentence:
    """Return the reason of the last of many ticks, which stands for so many before, too."""
    return Sentence(_TOGETHER.text, reason=reason, number=number, instant=first)


def read(text: str) -> str:
    """Return the reason that a row has; a text of another version as it is."""
    for form, pattern in _PATTERNS:
        if found := pattern.fullmatch(text):
            values: dict[str, object] = dict(found.groupdict())
            if form is _TOGETHER:
                values["reason"] = read(found["reason"])
            return Sentence(form.text, **values)
    return text


def _pattern(form: Sentence) -> re.Pattern[str]:
    names = re.sub(r"%\\\((\w+)\\\)s", r"(?P<\1>.*)", re.escape(form.text))
    return re.compile(names, re.DOTALL)


_PATTERNS = [(form, _pattern(form)) for form in _FORMS]
