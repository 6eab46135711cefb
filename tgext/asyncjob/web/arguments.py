"""The arguments of a job for a page: cut, and hidden where their name looks like that of a secret.

Nothing of the application runs for it: of a value that is not of a plain type only the class is
shown, since its ``repr`` may raise, take long, or use a database.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from ..call import PLAIN, Call, path_of
from ..errors import AsyncJobError
from ..job import Job
from ..task_result import NotKept
from .job_state import shown
from .refusals import refusal
from .texts import gettext, marked

#: Shown instead of a value.
HIDDEN = marked("(hidden)")

#: The longest value, its most items, and how deep it is looked into.
VALUE_LENGTH, MOST_ITEMS, DEEPEST = 300, 20, 4

_SECRET = re.compile(
    r"(^|_)pass(_|$)|passw(or[dt]|d)|passphrase|passcode|pwd|secret|token|api_?key|private|credential|auth(_|$)"
    r"|authoriz|cookie|session|signature|(^|_)(key|pin|otp|cvv|cvc|iban|ssn)$|card_?(number|no)",
    re.IGNORECASE,
)

#: User and password of a URL. SQLAlchemy takes a slash in a password, and others an "@".
_LOGIN = re.compile(
    r"(?<=://)(?:[^/\s@:]{0,100}:[^\s@]{1,200}|[^/\s@]{1,200})@(?:[^/\s@]{1,200}@)*"
)

#: So many characters of a container are enough: of the rest nothing is shown.
_ENOUGH = 4 * VALUE_LENGTH

#: Types whose ``str`` runs nothing of an application.
_SIMPLE = frozenset({datetime, date, time, timedelta, Decimal, UUID})

_BRACKETS: dict[type[Any], tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
}


class Argument(NamedTuple):
    """One argument."""

    name: str
    value: str


class Arguments(NamedTuple):
    """Those of a job."""

    given: list[Argument]
    wrong: str | None = None  #: why they cannot be read here


def arguments_of(job: Job) -> Arguments:
    """Read the arguments of a job, as ``TaskResult.args`` does."""
    try:
        call, args, kwargs = job.call, job.call.args, dict(job.call.kwargs or {})
        named = list(_named(call, args, int(job.options.takes_context)))
    except AsyncJobError as error:
        return Arguments([], shown(refusal(error), VALUE_LENGTH))
    except RecursionError:
        return Arguments([], gettext("they are nested too deeply"))
    given = [Argument(shown(name, 100), _value(name, value))
             for name, value in [*named, *kwargs.items()]]  # fmt: skip
    return Arguments(given)


def _named(call: Call, args: tuple[Any, ...], implied: int) -> Iterator[tuple[str, Any]]:
    """Give each positional argument the name of its parameter, or, without one, its number.

    implied: how many parameters come before, which the worker fills.
    """
    names: list[str] = []
    rest = None
    try:
        parameters = list(inspect.signature(call.target).parameters.values())
    except (TypeError, ValueError):  # it has none, as many builtins
        parameters = []
    for each in parameters:
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            names.append(each.name)
        elif each.kind is each.VAR_POSITIONAL:
            rest = each.name
    names = names[implied:]
    for number, value in enumerate(args):
        more = f"{number + 1}" if rest is None else f"*{rest}"
        yield names[number] if number < len(names) else more, value


def _value(name: str, value: Any) -> str:
    return gettext(HIDDEN) if _SECRET.search(name) else value_shown(value)


def value_shown(value: Any) -> str:
    """Return a value as one line."""
    if isinstance(value, NotKept):
        return shown(gettext("was not kept: %(reason)s", reason=value.why), VALUE_LENGTH)
    try:
        return shown(
            _LOGIN.sub(lambda _found: f"{gettext(HIDDEN)}@", _text(value, DEEPEST)), VALUE_LENGTH
        )
    except RuntimeError:  # the job, in another thread, changes it just now
        return gettext("a %(name)s that changes just now", name=type(value).__name__)


def _text(value: Any, deep: int) -> str:
    kind: type[Any] = type(value)
    if kind in (str, bytes):
        return repr(value[: 2 * VALUE_LENGTH])
    if kind is int and value.bit_length() > 1_000:
        return gettext("a very large number")  # its digits would take long
    if kind in PLAIN:
        return repr(value)
    if kind in _SIMPLE and _is_plain(getattr(value, "tzinfo", None)):
        return str(value)
    if kind is dict and deep:
        return "{" + ", ".join(_items(_pairs(value, deep), len(value))) + "}"
    if kind in _BRACKETS and deep:
        begin, end = _BRACKETS[kind]
        items = _items((_text(each, deep - 1) for each in value), len(value))
        return begin + ", ".join(items) + end
    return f"<{path_of(kind)}>"


def _is_plain(zone: Any) -> bool:
    """Whether a time zone runs nothing of an application."""
    return zone is None or type(zone) in (timezone, ZoneInfo)


def _pairs(value: dict[Any, Any], deep: int) -> Iterator[str]:
    for key, each in value.items():
        hidden = type(key) is str and _SECRET.search(key)
        yield f"{_text(key, deep - 1)}: {gettext(HIDDEN) if hidden else _text(each, deep - 1)}"


def _items(items: Iterable[str], number: int) -> list[str]:
    found: list[str] = []
    length = 0
    for each in islice(items, MOST_ITEMS):
        found.append(each)
        length += len(each)
        if length > _ENOUGH:
            return found
    if number <= MOST_ITEMS:
        return found
    return [*found, gettext("... %(number)s more", number=number - MOST_ITEMS)]
