"""Times as a page shows them: how long ago, with the instant as a title."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup

#: Up to so many seconds, and a name, a size in seconds, and the step that is shown.
_UNITS = ((60, "s", 1, 10), (5_400, "min", 60, 1), (129_600, "h", 3_600, 1))
_DAY = 86_400


def passed(seconds: float) -> str:
    """Return a duration in words, in coarse steps: a page that shows it stays the same for a
    while."""
    seconds = max(0.0, seconds)
    for limit, name, size, step in _UNITS:
        if seconds < limit:
            return f"{int(seconds / size) // step * step} {name}"
    return f"{int(seconds / _DAY)} d"


def ago(instant: datetime | None, now: datetime) -> Markup:
    """Return a ``<time>`` such as "5 min ago" or "in 3 h"; a dash for None."""
    if instant is None:
        return Markup("-")
    seconds = (now - instant).total_seconds()
    if abs(seconds) < 10:
        text = "just now"
    else:
        text = f"{passed(seconds)} ago" if seconds > 0 else f"in {passed(-seconds)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        instant.isoformat(timespec="seconds"), absolute(instant), text
    )


def absolute(instant: datetime) -> str:
    """Return an instant in UTC, to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
