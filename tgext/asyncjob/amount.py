"""Seconds and numbers that a caller gives: what is none is refused before anything waits for it."""

from __future__ import annotations

import math
import threading

from .errors import BadCall

#: The longest wait of a lock, an event or a thread, in seconds; what is more is for ever.
FOR_EVER = threading.TIMEOUT_MAX / 2


def seconds(name: str, value: object) -> float:
    """Return *value* as seconds to wait, infinity as a wait that does not end.

    name: of the argument. Raises BadCall for what is no number, and for NaN.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        return float(max(-FOR_EVER, min(value, FOR_EVER)))
    raise BadCall(f"{name}: expected seconds, got {value!r}")


def whole(name: str, value: object) -> float:
    """Return *value* as how many times something is done; infinity is without end.

    Raises BadCall for what is no whole number.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (value in (math.inf, -math.inf) or value == value // 1):  # type: ignore[operator]
        return value
    raise BadCall(f"{name}: expected a whole number, got {value!r}")
