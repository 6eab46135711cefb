"""Every option once: its default, its unit, and what values make sense.

From the .ini file all of them come as text. Nothing is passed over in silence: an unknown name
or a value that makes no sense is a ConfigError before the first job is enqueued.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import ConfigError
from .queue_name import MADE_OF, check_queue_name

#: The prefix of the names in the .ini file.
PREFIX = "asyncjob."

#: What an option in seconds may be: a hundred years. No clock of a system waits for ever.
MOST_SECONDS = 3_155_760_000

_TRUE = {"true", "yes", "on", "y", "t", "1"}
_FALSE = {"false", "no", "off", "n", "f", "0"}


#: What is designed, and refused until it is there.
_LATER = ("celery",)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a word")
    return value.strip()


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError("a whole number")
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a whole number") from None
    if not isinstance(value, str) and number != value:
        raise ValueError("a whole number")
    return number


def _seconds(least: int) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError("seconds")
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("seconds") from None
        if not least <= seconds <= MOST_SECONDS:
            most = f", at most {MOST_SECONDS}" if seconds > MOST_SECONDS else ""
            raise ValueError(f"seconds, at least {least}{most}")
        return seconds

    return convert


def _switch(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in _TRUE | _FALSE:
        raise ValueError("true or false")
    return text in _TRUE


def _names(value: Any) -> tuple[str, ...]:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    try:
        names = tuple(dict.fromkeys(map(check_queue_name, parts)))
    except (TypeError, ValueError):
        names = ()
    if not names:
        raise ValueError(f"one or more names, separated by commas, each of {MADE_OF}")
    return names


def _prefix(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,29}", text):
        raise ValueError("up to 30 letters, digits and underscores")
    return text


def _schema(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$-]{0,62}", text):
        raise ValueError("the name of a schema of the database")
    return text


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(" or ".join(choices))
        return str(value)

    return convert


def _at_least(least: int, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        found = convert(value)
        if found < least:
            raise ValueError(f"{least} or more")
        return found

    return checked


def _option(default: Any, convert: Callable[[Any], Any], *, repr: bool = True) -> Any:
    # repr=False: it holds a secret, or may
    return field(default=default, repr=repr, metadata={"convert": convert})


@dataclass(frozen=True)
class Options:
    """The options of a queue. Options of the durable backends are accepted by ``memory`` too and
    mean nothing there, so that a test.ini may inherit a development.ini.

    Raises ConfigError from ``Options.of``, which is how one is made.
    """

    #: where jobs wait
    backend: str = _option("memory", _one_of("memory", "sql"))
    #: what delivers them to a process
    engine: str = _option("own", _one_of("own"))
    #: worker threads in a process that serves; 0: only separate workers run jobs
    threads: int = _option(1, _at_least(0, _whole))
    #: queue names that this process's worker serves; None: all
    queues: tuple[str, ...] | None = _option(None, _names)
    #: SQLAlchemy URL of a queue outside TurboGears
    url: str | None = _option(None, _text, repr=False)
    #: whether missing tables are made at start
    create_tables: bool = _option(True, _switch)
    #: the prefix of the names of the tables
    table_prefix: str = _option("asyncjob_", _prefix)
    #: the schema of the tables (on MariaDB: the database); None: where they are found at start
    schema: str | None = _option(None, _schema)
    #: signs what is not plain JSON; never shown
    secret: str | None = _option(None, _text, repr=False)
    #: seconds of silence after which a worker that is not known to be dead is given up
    lease: float = _option(20.0, _seconds(1))
    #: seconds that running jobs may still take when a worker stops; less than Docker's 10 and
    #: gunicorn's 30, so that a deploy is a drain
    drain_timeout: float = _option(8.0, _seconds(0))
    #: seconds that ended jobs are kept (7 days)
    retention: float = _option(604_800.0, _seconds(0))
    #: deaths of a worker while it ran one job, after which that job has FAILED
    max_crashes: int = _option(3, _at_least(1, _whole))
    #: waiting jobs from which on an enqueue raises QueueFull; None: no bound
    max_queued: int | None = _option(None, _at_least(1, _whole))
    #: Celery's
    broker_url: str | None = _option(None, _text, repr=False)
    #: what ``tg.url(qualified=True)`` begins with inside jobs; None: as in the request
    base_url: str | None = _option(None, _text)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Options:
        """Make options of *settings*, names without the prefix, values as text or as they are.

        A value None or '' means the default.
        Raises ConfigError for an unknown name or a value that makes no sense.
        """
        known = {option.name: option for option in fields(cls)}
        values = {}
        for name, value in settings.items():
            if name not in known:
                raise ConfigError(_unknown(name, list(known)))
            if value is None or value == "":
                continue
            try:
                values[name] = known[name].metadata["convert"](value)
            except ValueError as error:
                shown = "a secret value" if name == "secret" else repr(value)
                if value in _LATER:
                    shown += ", which is not in this version"
                raise ConfigError(f"{PREFIX}{name}: expected {error}, got {shown}") from None
        return cls(**values)


def _unknown(name: str, known: list[str]) -> str:
    near = meant_by(name)
    shown = name if near else PREFIX + name
    near = near or _near(name, 0.6)
    if near:
        return f"unknown option {shown}; did you mean {PREFIX}{near}?"
    return f"unknown option {shown}; known are {', '.join(known)}"


def settings_of(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Pick what has the prefix out of an application's configuration, without the prefix.

    Raises ConfigError for a key that is meant to have it, as ``asyncjob_threads``, and which
    nothing would read.
    """
    found = {}
    for key, value in config.items():
        if not isinstance(key, str):
            continue
        if key.startswith(PREFIX):
            found[key.removeprefix(PREFIX)] = value
        elif meant := meant_by(key):
            raise ConfigError(
                f"expected options that begin with {PREFIX!r}, got {key!r}, which nothing reads; "
                f"did you mean {PREFIX}{meant}?"
            )
    return found


#: The prefix as it is, and as it is misspelt: asyncjob_, asyncjobs., async_job., tgext.asyncjob.
_NEARLY_PREFIX = re.compile(r"(?:tgext[._-])?async[._-]?jobs?[._-]+(.+)", re.IGNORECASE)


def meant_by(key: str) -> str | None:
    """Return the name of the option that a key of a configuration is meant for; None for a key
    of the application's own."""
    found = _NEARLY_PREFIX.fullmatch(key.strip())
    # Nearer than a suggestion has to be: the application may have keys that begin like ours.
    return None if found is None else _near(found[1], 0.85)


def _near(name: str, least: float) -> str | None:
    """The option whose name is as like *name* as *least*, 1 being the same, at least."""
    plain = re.sub(r"[^a-z]+", "_", name.lower())
    near = difflib.get_close_matches(plain, [each.name for each in fields(Options)], 1, least)
    return near[0] if near else None
