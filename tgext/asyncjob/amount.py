"""Seconds and numbers that a caller gives: what is none is refused before anything waits for it."""

from __future__ import annotations

import math
import threading
from typing import TypeGuard

from .errors import BadCall

#: The longest wait of a lock, an event or a thread, in seconds; what is more is for ever.
FOR_EVER = threading.TIMEOUT_MAX / 2


def is_int(value: object) -> TypeGuard[int]:
    """Whether *value* is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether *value* is an int or a float, and neither a bool nor NaN."""
    # A NaN compares false with everything and would pass no later check either.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def seconds(name: str, value: object) -> float:
    """Return *value* as seconds to wait, infinity as a wait that does not end.

    name: of the argument. Raises BadCall for what is no number, and for NaN.
    """
    if is_number(value):
        return float(max(-FOR_EVER, min(value, FOR_EVER)))
    raise BadCall(f"{name}: expected seconds, got {value!r}")


def whole(name: str, value: object) -> float:
    """Return *value* as how many times something is done; infinity is without end.

    Raises BadCall for what is no whole number.
    """
    if is_number(value) and (value in (math.inf, -math.inf) or value == value // 1):
        return value
    raise BadCall(f"{name}: expected a whole number, got {value!r}")
