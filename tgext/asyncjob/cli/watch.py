"""``status --watch``: the state of the queue on a whole terminal, read again each second."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ..errors import ConfigError, MissingExtra
from ..queue import JobQueue
from .command_result import CommandResult, result_of_error
from .sight import Sight, sight_of
from .terminal import Keys

if find_spec("rich") is None:
    raise MissingExtra("status --watch", "cli")

from rich.console import Console
from rich.live import Live

from .watch_view import view

#: Seconds from one reading to the next.
PAUSE = 1.0

#: The key that ends it, as Ctrl-C does.
END = "q"


def watch(queue: JobQueue) -> CommandResult:
    """Show the state of a queue until ``q`` or Ctrl-C.

    While the database cannot be reached, what was read last stays, and that is said. Raises
    ConfigError without a terminal, and whatever the first reading raises.
    """
    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        raise ConfigError(
            "status --watch: expected a terminal that can move its cursor, got none; leave --watch "
            "out, or use --json"
        )
    try:
        sight = sight_of(queue)
        with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            trouble = None
            while True:
                live.update(view(sight, console.size, trouble), refresh=True)
                if keys.has(END, PAUSE):
                    break
                sight, trouble = _next(queue, sight)
    except KeyboardInterrupt:
        pass
    return CommandResult("")


def _next(queue: JobQueue, before: Sight) -> tuple[Sight, str | None]:
    """Read again; if that fails, return what was read before, and why it fails."""
    try:
        return sight_of(queue), None
    except Exception as error:
        found = result_of_error(error)
        if found is None:
            raise
        return before, found.text
