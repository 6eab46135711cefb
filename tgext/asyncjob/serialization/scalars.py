"""Converts values without parts to JSON forms, and back.

A value that JSON can represent is its own form. Others have the form ``{"$": kind, "v": ...}``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

Form = Any  #: a value that ``json`` can write

#: The key that tags a form. ``"$"`` in a JSON text is a key or a whole string, never a part.
TAG = "$"

#: Longer integers are written in hexadecimal: Python may refuse 640 decimal digits and more.
_LONGEST_INT_BITS = 2_000


def tagged(kind: str, value: Form, **more: Form) -> dict[str, Form]:
    """Return the form of a value that JSON cannot represent."""
    return {TAG: kind, "v": value, **more}


def as_text(content: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(content).decode("ascii")


# -- writing: each function returns a form, or NotImplemented


def write_int(value: int) -> Form:
    """Return the form of an int of any size."""
    return value if value.bit_length() < _LONGEST_INT_BITS else tagged("int", hex(value))


def _float(value: float) -> Form:
    return value if math.isfinite(value) else tagged("float", repr(value))


def is_text(value: str) -> bool:
    """Whether JSON preserves a str: it would combine two surrogates to one character."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _str(value: str) -> Form:
    return value if is_text(value) else tagged("str", as_text(value.encode("utf-8", _PASS)))


def _zone(zone: tzinfo | None) -> Form:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [*_parts_of(offset), *name]
    if type(zone) is ZoneInfo and zone.key is not None and ZoneInfo(zone.key) is zone:
        return zone.key
    return NotImplemented


def _moment(kind: str) -> Callable[[Any], Form]:
    def write(value: datetime | time) -> Form:
        zone = _zone(value.tzinfo)
        if zone is NotImplemented:
            return zone
        return tagged(kind, value.replace(tzinfo=None).isoformat(), fold=value.fold, zone=zone)

    return write


def _parts_of(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_PASS = "surrogatepass"
_PATHS = {kind.__name__: kind for kind in (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)}

#: By the exact type: an instance of a subclass is not a scalar.
WRITE_SCALAR: dict[type, Callable[[Any], Form]] = {
    int: write_int,
    float: _float,
    str: _str,
    bytes: lambda value: tagged("bytes", as_text(value)),
    bytearray: lambda value: tagged("bytearray", as_text(value)),
    complex: lambda value: tagged("complex", [repr(value.real), repr(value.imag)]),
    date: lambda value: tagged("date", value.isoformat()),
    datetime: _moment("datetime"),
    time: _moment("time"),
    timedelta: lambda value: tagged("timedelta", _parts_of(value)),
    Decimal: lambda value: tagged("Decimal", str(value)),
    UUID: lambda value: tagged("UUID", value.hex),
    **{
        kind: lambda value: tagged("path", _str(str(value)), c=type(value).__name__)
        for kind in _PATHS.values()
    },
}


#: Types of which a value may be its own form; bool and None are always.
_PLAIN: frozenset[type] = frozenset({int, float, str})


def is_own_form(*values: object) -> bool:
    """Whether each value is one that JSON represents as it is, without parts."""
    for value in values:
        kind = type(value)
        if value is None or kind is bool:
            continue
        if kind not in _PLAIN or WRITE_SCALAR[kind](value) is not value:
            return False
    return True


# -- reading


def _read_zone(zone: Form) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    return timezone(timedelta(*zone[:3]), *zone[3:])


def _read_moment(kind: type[datetime] | type[time]) -> Callable[[dict[str, Form]], Any]:
    def read(form: dict[str, Form]) -> Any:
        naive = kind.fromisoformat(form["v"])
        return naive.replace(tzinfo=_read_zone(form["zone"]), fold=form["fold"])

    return read


def _read_str(form: Form) -> str:
    if type(form) is str:
        return form
    return base64.b64decode(form["v"]).decode("utf-8", _PASS)


#: By the kind of the form.
READ_SCALAR: dict[str, Callable[[dict[str, Form]], Any]] = {
    "int": lambda form: int(form["v"], 16),
    "float": lambda form: float(form["v"]),
    "str": _read_str,
    "bytes": lambda form: base64.b64decode(form["v"]),
    "bytearray": lambda form: bytearray(base64.b64decode(form["v"])),
    "complex": lambda form: complex(*map(float, form["v"])),
    "date": lambda form: date.fromisoformat(form["v"]),
    "datetime": _read_moment(datetime),
    "time": _read_moment(time),
    "timedelta": lambda form: timedelta(*form["v"]),
    "Decimal": lambda form: Decimal(form["v"]),
    "UUID": lambda form: UUID(form["v"]),
    "path": lambda form: _PATHS[form["c"]](_read_str(form["v"])),
}
