"""``celery -- worker ...``: run Celery's program with a Celery app that runs the jobs.

The application is loaded in a child first, which tells what the parent has to know of it; then each
child of Celery loads it.
"""

from __future__ import annotations

import importlib
import logging
import traceback
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

from .command_result import CommandResult, Load, loaded, result_of_error
from .preflight import answer_of


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "arguments",
        nargs=REMAINDER,
        metavar="-- worker ...",
        help="the command line of celery, such as: -- worker --concurrency 4 --loglevel info",
    )


def run(load: Load, wanted: Namespace) -> CommandResult:
    """Run Celery's program until it ends."""
    fleet = fleet_of(load)
    if isinstance(fleet, CommandResult):
        return fleet
    return CommandResult("", fleet.start(arguments_of(wanted.arguments)))


def arguments_of(given: Sequence[str]) -> list[str]:
    """Return the command line of Celery: by default a worker, which logs what it runs."""
    arguments = list(given[1:] if given[:1] == ["--"] else given) or ["worker"]
    has_level = any(each.startswith(("-l", "--loglevel")) for each in arguments)
    if "worker" in arguments and not has_level:
        root = logging.getLogger()
        level = root.level if root.handlers and root.level else logging.INFO
        arguments += ["--loglevel", logging.getLevelName(level)]
    return arguments


def fleet_of(load: Load) -> Any:
    """Return the ``Fleet`` of an application, with its Celery app made ready; or a CommandResult if
    that cannot be.

    Called in the main thread of a process that has no other thread.
    """
    found = answer_of(partial(loaded, load), lambda queue: _package("settings").settings_of(queue))
    if isinstance(found, CommandResult):
        return found
    settings = _package("settings").FleetSettings(*found)
    try:
        made = _package("fleet").Fleet(settings.make_app(), settings, load, _described)
    except Exception as error:
        result = result_of_error(error)
        if result is None:
            raise
        return result
    made.install()
    return made


def _described(error: BaseException) -> str:
    result = result_of_error(error) if isinstance(error, Exception) else None
    text = "".join(traceback.format_exception(error)) if result is None else result.text
    return f"a child of Celery cannot load the application, and the worker ends: {text.rstrip()}"


def _package(name: str) -> Any:
    # Only this command needs Celery.
    return importlib.import_module(f"{__package__.rpartition('.')[0]}.fleet.{name}")
