"""Convert any value to one that JSON can represent, for pages and ``--json``.

The conversion never fails, and it is not reversible. ``serialization/`` has the reversible one,
which backends use.

==================================== ===========================================================
value                                form
==================================== ===========================================================
None, bool, int, str, finite float   itself
NaN, infinity                        null, as ``JSON.stringify`` of a browser has it
list, tuple, set, frozenset, deque   an array
dict, any other Mapping, dataclass   an object; a key that is not a str as its text
datetime, date, time                 ISO 8601 text
timedelta                            seconds
bytes, bytearray                     text decoded as UTF-8; other bytes as ``\\xff``
Enum                                 the form of its value
an object with ``__json__()``        the form of what that returns
anything else (Decimal, UUID, path)  its text: ``str(value)``, cut after 1000 characters
==================================== ===========================================================

A value that contains itself, is nested more than 50 levels deep or follows 100,000 other values
becomes the text ``...``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from math import isfinite
from typing import Any

#: The longest text of an object.
MOST_CHARACTERS = 1000
#: A deeper value is a mistake; a JSON encoder raises RecursionError not far below.
MOST_DEEP = 50
#: Some megabytes. Lists that contain the same list several times are few objects, but an
#: exponential number of values.
MOST_VALUES = 100_000
#: Python refuses to write a longer number in decimal digits (its limit is 4300).
MOST_BITS = 14_000
#: Stands for a value that is left out.
LEFT_OUT = "..."


def json_form(value: Any) -> Any:
    """Return *value* as None, bool, int, finite float, str, list or dict with str keys.

    See the module for the form of each type. Never raises.
    """
    return _Forming().of(value)


class _Forming:
    """Converts one value; counts its parts, and knows which of them enclose the present one."""

    def __init__(self) -> None:
        self._left = MOST_VALUES
        self._around: list[int] = []

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        self._left -= 1
        if self._left < 0 or len(self._around) > MOST_DEEP or id(value) in self._around:
            return LEFT_OUT
        self._around.append(id(value))
        try:
            return self._formed(value)
        except Exception:  # noqa: BLE001 - its __str__, __json__ or __iter__ may raise anything
            return f"<{type(value).__qualname__}>"
        finally:
            self._around.pop()

    def _formed(self, value: Any) -> Any:
        if isinstance(value, Enum):  # before int and str, which one may be as well
            return self.of(value.value)
        if isinstance(value, str):
            return _sound(value)
        if isinstance(value, int):
            return int(value) if value.bit_length() < MOST_BITS else hex(value)
        if isinstance(value, float):
            return float(value) if isfinite(value) else None
        if isinstance(value, Mapping):
            return self._object(value.items())
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            return self._array(value)
        return self._plain(value)

    def _plain(self, value: Any) -> Any:
        if not isinstance(value, type):
            if callable(getattr(value, "__json__", None)):
                return self.of(value.__json__())
            if is_dataclass(value):
                return self._object(
                    (each.name, getattr(value, each.name)) for each in fields(value)
                )
        if isinstance(value, (datetime, date, time)):
            return value.isoformat()
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, (bytes, bytearray)):
            return value.decode("utf-8", "backslashreplace")
        return _sound(str(value)[:MOST_CHARACTERS])

    def _array(self, values: Iterable[Any]) -> list[Any]:
        found = []
        for value in list(values):  # a copy: the job may still add to a list that it has reported
            found.append(self.of(value))
            if self._left < 0:
                break
        return found

    def _object(self, items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
        found = {}
        for key, value in list(items):
            found[_key(key)] = self.of(value)
            if self._left < 0:
                break
        return found


def _key(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    try:
        return _sound(str(key) if isinstance(key, str) else str(key)[:MOST_CHARACTERS])
    except Exception:  # noqa: BLE001 - see of()
        return f"<{type(key).__qualname__}>"


def _sound(text: str) -> str:
    """Write a lone surrogate, which UTF-8 cannot encode, as ``\\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode()
