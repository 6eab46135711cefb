"""Keys: texts by which jobs belong together, for limits and other policies of a task.

A key is of one task, unless it is ``shared``. It is readable, and short enough for an index: a long
one ends with its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import BadCall, ConfigError

#: The most characters of a key.
KEY_LENGTH = 128

#: The most characters of the name of a shared key.
NAME_LENGTH = 64

#: Characters of the digest of a longer one: 128 bits.
_DIGEST_LENGTH = 32


@dataclass(frozen=True)
class SharedKey:
    """A key that is common to all tasks that name it; made by ``shared``."""

    name: str
    part: Callable[..., str] | None = None


def shared(name: str, key: Callable[..., str] | None = None) -> SharedKey:
    """Return a key that is common to all tasks that name it, as ``limit_key=shared("mailgun")``.

    name: 1 to 64 characters. key: a callable that takes the job's arguments and returns a text,
    which has a limit of its own then; None: there is one for all.
    Raises ConfigError.
    """
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH:
        raise ConfigError(
            f"shared: expected a name of 1 to {NAME_LENGTH} characters, got {name!r}; "
            'name what is shared, as in shared("mailgun")'
        )
    if key is not None and not callable(key):
        raise ConfigError(
            f"shared: expected a callable of the job's arguments, or none, got {key!r}; "
            "a fixed text belongs into the name"
        )
    return SharedKey(name, key)


#: How a key is declared: a text, a callable of the job's arguments that returns one, a shared one;
#: None: one key for all jobs of the task.
KeySource = str | Callable[..., str] | SharedKey | None


def check_key(option: str, source: object) -> None:
    """Raise ConfigError for an option that declares no key."""
    if source is None or isinstance(source, SharedKey) or callable(source):
        return
    if not isinstance(source, str) or not source:
        raise ConfigError(
            f"{option}: expected a text, a callable of the job's arguments that returns one, or "
            f"shared(...), got {source!r}"
        )


def key_of(
    option: str, source: KeySource, task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    """Return the key of a job.

    option: the name of the option that declares it. task: the dotted path of the task.
    Raises BadCall if the callable raises, or returns no text.
    """
    if isinstance(source, SharedKey):
        part = None if source.part is None else _called(option, source.part, args, kwargs)
        return shortened("shared", source.name, part)
    if callable(source):
        source = _called(option, source, args, kwargs)
    return shortened(task, source)


def _called(
    option: str, source: Callable[..., str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    try:
        found: object = source(*args, **kwargs)
    except Exception as error:
        raise BadCall(
            f"{option}: expected a text from {source!r} for the arguments of this job, and it "
            f"raised {type(error).__name__}: {error}; it is called with the job's arguments"
        ) from error
    if not isinstance(found, str):
        raise BadCall(
            f"{option}: expected a text from {source!r}, got {found!r}; return str(...) of it"
        )
    return found


def shortened(*parts: str | None) -> str:
    """Return a key of these parts, with a digest if it could be mistaken for another one."""
    text = ":".join(part for part in parts if part is not None)
    is_plain = text.isprintable() and len(text) <= KEY_LENGTH and not text.endswith((" ", "~"))
    # "~": the end of a digest. A space at the end is nothing in comparisons of MariaDB.
    if is_plain and not _is_like_digest(text):
        return text
    encoded = text.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST_LENGTH]
    shown = "".join(each for each in text if each.isprintable())
    return f"{shown[: KEY_LENGTH - _DIGEST_LENGTH - 1]}~{digest}"


def _is_like_digest(text: str) -> bool:
    return text[-_DIGEST_LENGTH - 1 : -_DIGEST_LENGTH] == "~"
