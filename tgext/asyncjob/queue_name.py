"""The check of a queue's name, which must be safe in lists, log lines and databases."""

from __future__ import annotations

import re

from .errors import ConfigError

#: The allowed characters, in words and as a pattern.
MADE_OF = '1 to 64 ASCII letters, digits, "_", ".", ":" and "-"'
_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def check_queue_name(name: object) -> str:
    """Return *name*; raises ConfigError if it is not a valid name of a queue."""
    if not isinstance(name, str) or _PATTERN.fullmatch(name) is None:
        raise ConfigError(f"queue_name: expected a name of {MADE_OF}, got {name!r}")
    return name
