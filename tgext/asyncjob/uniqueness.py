"""``UniqueKey``: of the jobs of one key at most one waits, is unfinished, or is of a period.

A key is *held* by one job. Whether that job still holds it is seen from the job itself, when
another one asks for the key: nothing has to be given back, so that nothing can be forgotten.
"""

from __future__ import annotations

import datetime
import decimal
import difflib
import enum
import inspect
import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from .call import Call, path_of
from .errors import BadCall, ConfigError

#: How long a job holds its key: until its first attempt begins, until it has ended, for a period
#: from its enqueue; and that of a coalesced one, whose arguments are replaced while it waits.
WAITING, UNFINISHED, PERIOD, LATEST = "waiting", "unfinished", "period", "latest"

#: A hundred years; a longer period is a mistake.
LONGEST_PERIOD = datetime.timedelta(days=36_525)

#: Begins each unique key: no other key by which jobs are blocked begins so.
PREFIX = "=:"

Unique = str | datetime.timedelta | None


class UniqueKey(NamedTuple):
    """The key of one job."""

    key: str
    scope: str
    seconds: float = 0.0  #: of a period

    def is_held_by(self, *, waits: bool, ended: bool, cancelled: bool, age: float) -> bool:
        """Whether a job that has taken this key still holds it against one that asks for it.

        waits: it has not begun, or waits for its next attempt. ended: it has. cancelled: it has
        ended so. age: seconds since its enqueue.
        """
        if self.scope == PERIOD:
            return age < self.seconds and not cancelled
        return waits if self.scope == WAITING else not ended


def is_unique_key(name: str) -> bool:
    """Whether the name by which a job is blocked is a unique key."""
    return name.startswith(PREFIX)


def check_unique(unique: object, unique_key: object, coalesce: object) -> None:
    """Check these options of a task. Raises ConfigError."""
    if not isinstance(coalesce, bool):
        raise ConfigError(f"coalesce: expected True or False, got {coalesce!r}")
    if isinstance(unique, datetime.timedelta):
        if not datetime.timedelta(0) < unique <= LONGEST_PERIOD:
            raise ConfigError(
                f"unique: expected a period of more than 0 and at most {LONGEST_PERIOD.days} days, "
                f"got {unique!r}; leave it out if jobs may be enqueued at any time"
            )
    elif unique is not None and unique not in (WAITING, UNFINISHED):
        near = difflib.get_close_matches(unique, (WAITING, UNFINISHED), 1) if isinstance(
            unique, str
        ) else ()  # fmt: skip
        hint = f'did you mean "{near[0]}"?' if near else "for a period use timedelta(...)"
        raise ConfigError(
            f'unique: expected "{WAITING}", "{UNFINISHED}", a timedelta or None, got {unique!r}; '
            f"{hint}"
        )
    if coalesce and unique is not None:
        raise ConfigError(
            f"coalesce: expected unique to be left out beside it, got unique={unique!r}; a job is "
            "either a duplicate that is dropped, or replaces the arguments of the one that waits"
        )
    if coalesce and unique_key is None:
        raise ConfigError(
            "coalesce: expected unique_key beside it, got none; with the arguments as the key "
            "there are never other arguments to replace: say which jobs belong together"
        )
    if unique_key is not None and unique is None and not coalesce:
        raise ConfigError(
            f"unique_key: expected unique or coalesce beside it, got neither and {unique_key!r}; "
            f'add unique="{UNFINISHED}", for example'
        )


def scope_of(unique: Unique, coalesce: bool) -> tuple[str, float]:
    """Return the scope of the options of a task, and the seconds of a period."""
    if isinstance(unique, datetime.timedelta):
        return PERIOD, unique.total_seconds()
    return (LATEST if coalesce else str(unique)), 0.0


def arguments_text(call: Call, implied: int) -> str:
    """Return a text that is the same for the same arguments, however they are passed.

    implied: how many positional arguments the worker passes before them.
    Raises BadCall for a value that has no such text.
    """
    args: Any = (None,) * implied + call.args
    kwargs = call.kwargs or {}
    try:
        bound = inspect.signature(call.target, follow_wrapped=False).bind(*args, **kwargs)
    except (ValueError, TypeError):  # some builtins have no signature
        pass
    else:
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
    forms = [_form(value, f"argument {number}") for number, value in enumerate(args[implied:], 1)]
    named = {name: _form(value, f"argument {name!r}") for name, value in kwargs.items()}
    return _dumped([*forms, named] if named else forms)


def _dumped(form: Any) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"))


#: What tells values of these types apart, as text.
_TEXTS: dict[type[Any], Callable[[Any], str]] = {
    bytes: bytes.hex,
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: repr,
    decimal.Decimal: str,
    uuid.UUID: str,
}


def _form(value: Any, name: str) -> Any:
    kind: Any = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in _TEXTS:
        return {kind.__name__: _TEXTS[kind](value)}
    if issubclass(kind, enum.Enum):
        return {path_of(kind): value.name}
    if kind in (list, tuple):
        return {kind.__name__: [_form(each, name) for each in value]}
    if kind in (set, frozenset):
        return {kind.__name__: sorted(_dumped(_form(each, name)) for each in value)}
    if kind is dict:
        pairs = [[_dumped(_form(key, name)), _form(each, name)] for key, each in value.items()]
        return {"dict": sorted(pairs, key=lambda pair: pair[0])}
    raise BadCall(
        f"unique: expected arguments of plain types to compare, got an instance of {path_of(kind)} "
        f"in {name}; say what tells the jobs apart: unique_key=lambda ...: ..."
    )
