"""Numbers that an executor is given, checked when they are given."""

from __future__ import annotations

import math

from ..errors import ConfigError


def check_bound(name: str, value: object) -> None:
    """Refuse a bound that is no number above 0, NaN and infinity among them. Raises ConfigError."""
    if type(value) not in (int, float) or not 0 < value < math.inf:  # type: ignore[operator]
        raise ConfigError(f"{name}: expected a number above 0, got {value!r}")
