"""The result of a command: text for people or JSON for programs, and an exit code."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ..errors import AsyncJobError, ConfigError
from .output import columns, fitted, one_line

#: Exit codes.
FINE = 0
NOTHING_FOUND = 1  #: no such job, or none to which the command applies
USAGE = 2  #: invalid options, or an invalid configuration
NO_DATABASE = 3  #: the database cannot be reached, or refuses a statement
NOT_WRITTEN = 4  #: the result could not be written
INTERRUPTED = 130  #: the exit code of a shell for SIGINT

#: Printed below the traceback of an application.
NOT_LOADED = "the application cannot be loaded; the lines above say why"

#: The least width of a column that is cut.
LEAST_WIDTH = 8


class CommandResult(NamedTuple):
    """text: the output without the last newline; "" for no output."""

    text: str
    code: int = FINE


def result_of_error(error: Exception) -> CommandResult | None:
    """Return the result for an error; None for an unexpected one."""
    if isinstance(error, AsyncJobError):
        return CommandResult(str(error), USAGE)
    # By name: SQLAlchemy need not be installed.
    if any(kind.__module__ == "sqlalchemy.exc" for kind in type(error).__mro__):
        return CommandResult(f"the database cannot be used: {error}".expandtabs(4), NO_DATABASE)
    return None


def as_json(content: Any, code: int = FINE) -> CommandResult:
    """Return a CommandResult with JSON; instants in ISO format."""
    text = json.dumps(content, indent=2, default=_plain, allow_nan=False)
    return CommandResult(
        text.replace("\x7f", "\\u007f"), code
    )  # the one control that JSON lets stand


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"expected a value for JSON, got {value!r}")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None) -> str:
    """Return a plain table whose lines fit into *width* columns.

    width: None: that of the terminal, or unlimited without one. The widest column is cut first,
    until all fit or none is wider than LEAST_WIDTH.
    """
    if width is None:
        width = shutil.get_terminal_size((0, 0)).columns
    lines = [[one_line(str(cell)) for cell in row] for row in [heads, *rows]]
    widths = [max(columns(line[column]) for line in lines) for column in range(len(heads))]
    while width and sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > LEAST_WIDTH:
        widths[widths.index(max(widths))] -= 1
    return "\n".join("  ".join(map(fitted, line, widths)).rstrip() for line in lines)


#: Loads the application and returns its queue, or makes a queue for a URL.
Load = Callable[[], Any]


def loaded(load: Load) -> Any:
    """Load an application. An unexpected error of it is printed here, and becomes a ConfigError."""
    try:
        return load()
    except Exception as error:
        if result_of_error(error) is not None:
            raise
        traceback.print_exc()
        raise ConfigError(NOT_LOADED) from None
