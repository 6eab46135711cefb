"""The options of a queue: defaults, units and allowed values.

Values from the .ini file are text. An unknown name or an invalid value raises ConfigError when the
queue is made.
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

#: The largest value of an option in seconds: a hundred years. No system call waits longer.
MOST_SECONDS = 3_155_760_000

#: What the URL of a message broker may begin with.
BROKERS = ("redis", "rediss", "sentinel", "amqp", "amqps", "pyamqp")

#: Other names of the brokers.
_BROKERS_MEANT = {"rabbitmq": "amqp", "rabbit": "amqp", "valkey": "redis"}

_TRUE = {"true", "yes", "on", "y", "t", "1"}
_FALSE = {"false", "no", "off", "n", "f", "0"}


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


def _path(value: Any) -> str | None:
    text = _text(value)
    if text.lower() in _FALSE | {"none"}:
        return None
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text) or {".", ".."} & set(text.split("/")):
        raise ValueError("a path such as /asyncjob, or none")
    return text


def _function(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", text):
        raise ValueError("the path of a function, as myapp.jobs:on_failure")
    return text


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            near = difflib.get_close_matches(str(value).strip().lower(), choices, 1)
            raise ValueError(" or ".join(choices) + (f"; did you mean {near[0]}?" if near else ""))
        return str(value)

    return convert


def _broker(value: Any) -> str:
    text = _text(value)
    scheme = text.partition("://")[0].lower()
    if "://" not in text or scheme.partition("+")[0] not in BROKERS:
        near = _BROKERS_MEANT.get(scheme) or next(
            iter(difflib.get_close_matches(scheme, BROKERS, 1)), None
        )
        hint = "" if near is None else f"; did you mean {near}://?"
        raise ValueError(f"a URL that begins with {' or '.join(BROKERS)}, and ://{hint}")
    return text


def _object_path(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text):
        raise ValueError("MODULE:NAME")
    return text


def _at_least(least: int, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        found = convert(value)
        if found < least:
            raise ValueError(f"{least} or more")
        return found

    return checked


def _option(default: Any, convert: Callable[[Any], Any], *, repr: bool = True) -> Any:
    # repr=False: the value is a secret, or may contain one
    return field(default=default, repr=repr, metadata={"convert": convert})


@dataclass(frozen=True)
class Options:
    """The options of a queue; made by ``Options.of``, which checks them.

    ``memory`` accepts the options of ``sql`` and ignores them, so that a test.ini may inherit from
    a development.ini.
    """

    #: where jobs are stored
    backend: str = _option("memory", _one_of("memory", "sql"))
    #: what wakes workers: their own threads look and listen, or Celery's messages
    engine: str = _option("own", _one_of("own", "celery"))
    #: worker threads of a process that serves requests; 0: only separate workers run jobs, which is
    #: the default where the engine is celery
    threads: int = _option(1, _at_least(0, _whole))
    #: names of the queues that the worker of this process serves; None: all
    queues: tuple[str, ...] | None = _option(None, _names)
    #: SQLAlchemy URL of a queue outside TurboGears
    url: str | None = _option(None, _text, repr=False)
    #: whether missing tables are created at start
    create_tables: bool = _option(True, _switch)
    #: the prefix of the table names
    table_prefix: str = _option("asyncjob_", _prefix)
    #: the schema of the tables (on MariaDB: the database); None: the one where they are found
    schema: str | None = _option(None, _schema)
    #: signs stored calls; None: calls that need a signature are refused
    secret: str | None = _option(None, _text, repr=False)
    #: seconds without a heartbeat after which the jobs of a worker are rescued
    lease: float = _option(20.0, _seconds(1))
    #: seconds that running jobs may still take when a worker stops; less than the 10 s of Docker
    #: and the 30 s of gunicorn, so that a deploy is a drain
    drain_timeout: float = _option(8.0, _seconds(0))
    #: seconds that ended jobs are kept (7 days)
    retention: float = _option(604_800.0, _seconds(0))
    #: deaths of workers while they ran a job, after which the job has FAILED
    max_crashes: int = _option(3, _at_least(1, _whole))
    #: number of waiting jobs at which an enqueue raises QueueFull; None: no limit
    max_queued: int | None = _option(None, _at_least(1, _whole))
    #: called with the TaskResult of each job that has finally failed; None: nothing
    on_failure: str | None = _option(None, _function)
    #: the path of the package's own pages and of its progress elements; None: not served
    web_path: str | None = _option("/asyncjob", _path)
    #: who may read the progress of a job: who knows its uid, or who enqueued it
    progress_access: str = _option("uid", _one_of("uid", "owner"))
    #: the permission to see and to act on all jobs in the pages, in TurboGears
    web_permission: str = _option("manage", _text)
    #: the permission to see them only; None: there is none
    web_readonly_permission: str | None = _option(None, _text)
    #: the URL of the message broker, if the engine is celery
    broker_url: str | None = _option(None, _broker, repr=False)
    #: the application's own Celery app as MODULE:NAME, with its own broker; None: a private one
    celery_app: str | None = _option(None, _object_path)
    #: what ``tg.url(qualified=True)`` begins with inside jobs; None: as in the enqueuing request
    base_url: str | None = _option(None, _text)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Options:
        """Make options of *settings*.

        settings: by name without the prefix. A value may be text; None or '' means the default.
        Raises ConfigError for an unknown name and for an invalid value.
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
                shown = _shown(name, value)
                expected, _, hint = str(error).partition("; ")
                hint = f"; {hint}" if hint else ""
                raise ConfigError(
                    f"{PREFIX}{name}: expected {expected}, got {shown}{hint}"
                ) from None
        if values.get("engine") == "celery":
            _check_celery(values)
            values.setdefault("threads", 0)
        return cls(**values)


def _shown(name: str, value: Any) -> str:
    """Return a value for an error; of a URL only how it begins, since it may hold a password."""
    if name == "secret":
        return "a secret value"
    if name == "broker_url":
        scheme, separator, _ = str(value).partition("://")
        return f"{scheme}://..." if separator else "a value without ://"
    return repr(value)


def _check_celery(values: Mapping[str, Any]) -> None:
    """Raise ConfigError if the engine celery lacks another option that it needs."""
    if (backend := values.get("backend", "memory")) != "sql":
        raise ConfigError(
            f"{PREFIX}engine = celery: expected {PREFIX}backend = sql, got {PREFIX}backend = "
            f"{backend}; a message only wakes a worker, and other processes must find "
            "the job in a database"
        )
    if "broker_url" not in values and "celery_app" not in values:
        raise ConfigError(
            f"{PREFIX}engine = celery: expected {PREFIX}broker_url, such as "
            f"redis://127.0.0.1:6379/0 or amqp://guest@127.0.0.1//, or {PREFIX}celery_app, got "
            "neither"
        )
    if "broker_url" in values and "celery_app" in values:
        raise ConfigError(
            f"{PREFIX}celery_app: expected no {PREFIX}broker_url beside it, got both; an "
            "application's own Celery app has a broker already"
        )


def _unknown(name: str, known: list[str]) -> str:
    near = meant_by(name)
    shown = name if near else PREFIX + name
    near = near or _near(name, 0.6)
    if near:
        return f"unknown option {shown}; did you mean {PREFIX}{near}?"
    return f"unknown option {shown}; known are {', '.join(known)}"


def settings_of(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the options in an application's configuration, by their names without the prefix.

    Raises ConfigError for a key with a misspelt prefix, such as ``asyncjob_threads``, which nothing
    would read.
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


#: The prefix, and its usual misspellings: asyncjob_, asyncjobs., async_job., tgext.asyncjob.
_NEARLY_PREFIX = re.compile(r"(?:tgext[._-])?async[._-]?jobs?[._-]+(.+)", re.IGNORECASE)


def meant_by(key: str) -> str | None:
    """Return the option that a key of a configuration is meant to be; None if the key is not meant
    for this package."""
    found = _NEARLY_PREFIX.fullmatch(key.strip())
    # Stricter than for a suggestion: the application may have keys that begin like ours.
    return None if found is None else _near(found[1], 0.85)


def _near(name: str, least: float) -> str | None:
    """The option whose name is most similar to *name*; *least*: the least similarity, 0 to 1."""
    plain = re.sub(r"[^a-z]+", "_", name.lower())
    near = difflib.get_close_matches(plain, [each.name for each in fields(Options)], 1, least)
    return near[0] if near else None
