"""Durations, amounts and addresses in words, for people."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

#: Seconds in the units of an age, and the longest age, 100 years.
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_AGE = timedelta(days=36_525)


def lasting(time: timedelta) -> str:
    """Return a duration in its two largest units, as in "5m 10s"."""
    seconds = max(0, int(time.total_seconds()))
    units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]
    parts = []
    for name, size in units:
        number, seconds = divmod(seconds, size)
        parts.append((number, name))
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{number}{name}" for number, name in parts[:2])


def number_of(count: int, noun: str) -> str:
    """Return as in "1 job", "2 jobs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def address_of(url: Any) -> str:
    """Return an SQLAlchemy URL without passwords, also those in its query."""
    hidden = {name: "hidden" for name in url.query if "pass" in name.lower()}
    return str(url.update_query_dict(hidden).render_as_string())


def age_of(text: str) -> timedelta | None:
    """Read an age: seconds, or as in "15m", "12h", "30d"; None if it is none of up to 100 years."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([smhd]?)", text.strip(), re.ASCII)
    if found is None:
        return None
    seconds = float(found[1]) * UNITS[found[2]]
    return timedelta(seconds=seconds) if seconds <= LONGEST_AGE.total_seconds() else None
