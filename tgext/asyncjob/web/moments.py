"""Times as a page shows them: how long ago, with the instant as a title."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup

from .texts import gettext, marked

#: Up to so many seconds, and a name, a size in seconds, and the step that is shown.
_UNITS = (
    (60, marked("%(number)s s"), 1, 10),
    (5_400, marked("%(number)s min"), 60, 1),
    (129_600, marked("%(number)s h"), 3_600, 1),
)
_DAY = 86_400


def passed(seconds: float) -> str:
    """Return a duration in words, in coarse steps: a page that shows it stays the same for a
    while."""
    seconds = max(0.0, seconds)
    for limit, name, size, step in _UNITS:
        if seconds < limit:
            return gettext(name, number=int(seconds / size) // step * step)
    return gettext("%(number)s d", number=int(seconds / _DAY))


def ago(instant: datetime | None, now: datetime) -> Markup:
    """Return a ``<time>`` such as "5 min ago" or "in 3 h"; a dash for None."""
    if instant is None:
        return Markup("-")
    seconds = (now - instant).total_seconds()
    if abs(seconds) < 10:
        text = gettext("just now")
    elif seconds > 0:
        text = gettext("%(time)s ago", time=passed(seconds))
    else:
        text = gettext("in %(time)s", time=passed(-seconds))
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        instant.isoformat(timespec="seconds"), absolute(instant), text
    )


def absolute(instant: datetime) -> str:
    """Return an instant in UTC, to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
