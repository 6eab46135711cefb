"""Durations and amounts in words, for people."""

from __future__ import annotations

from datetime import timedelta


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
