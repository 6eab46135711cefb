"""Check the numeric options of executors."""

from __future__ import annotations

import math

from ..errors import ConfigError


def check_bound(name: str, value: object) -> None:
    """Raise ConfigError unless *value* is a finite number above 0."""
    if type(value) not in (int, float) or not 0 < value < math.inf:  # type: ignore[operator]
        raise ConfigError(f"{name}: expected a number above 0, got {value!r}")
