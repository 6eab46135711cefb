"""Checks of numbers and seconds that a caller passes, before anything waits or repeats."""

from __future__ import annotations

import math
import threading
from typing import TypeGuard

from .errors import BadCall

#: The longest wait of a lock, an event or a thread, in seconds; stands for a wait without end.
FOR_EVER = threading.TIMEOUT_MAX / 2


def is_int(value: object) -> TypeGuard[int]:
    """Whether *value* is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether *value* is an int or a float, and neither a bool nor NaN."""
    # NaN: every comparison with it is false, so a check of a range would not refuse it.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def seconds(name: str, value: object) -> float:
    """Return *value*, bounded to what a wait accepts; infinity means a wait without end.

    name: the name of the argument, for the message.
    Raises BadCall if *value* is not a number.
    """
    if is_number(value):
        return float(max(-FOR_EVER, min(value, FOR_EVER)))
    raise BadCall(f"{name}: expected seconds, got {value!r}")


def whole(name: str, value: object) -> float:
    """Return *value* as a number of repetitions; infinity means without end.

    name: the name of the argument, for the message.
    Raises BadCall if *value* is not a whole number.
    """
    if is_number(value) and (value in (math.inf, -math.inf) or value == value // 1):
        return value
    raise BadCall(f"{name}: expected a whole number, got {value!r}")
