"""``gearbox asyncjob-worker -c development.ini``: the commands for a TurboGears application.

They make the application of the .ini file, without serving it, and use its queue.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

import tg
from gearbox.command import Command as GearboxCommand
from gearbox.utils.log import setup_logging
from paste.deploy import loadapp  # type: ignore[import-untyped]

from ..cli import COMMANDS, Command, run_command
from ..errors import ConfigError
from ..queue import JobQueue


class _AsyncJobCommand(GearboxCommand):  # type: ignore[misc]
    """A gearbox command for ``command``, one of COMMANDS."""

    command: Command

    def get_description(self) -> str:
        return f"{self.command.summary.capitalize()}."

    def get_parser(self, prog_name: str) -> ArgumentParser:
        parser: ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "-c",
            "--config",
            dest="config_file",
            default="development.ini",
            metavar="FILE[#SECTION]",
            help="the .ini file of the application (default: development.ini)",
        )
        self.command.add_arguments(parser)
        return parser

    def take_action(self, wanted: Namespace) -> int:
        if self.command.is_service:
            setup_logging(wanted.config_file)
        else:
            # Log lines of the application would mix with the output of the command.
            logging.getLogger().setLevel(logging.ERROR)
        return run_command(self.command, partial(load, wanted.config_file), wanted)


def load(config_file: str) -> JobQueue:
    """Make the application of an .ini file and return its queue.

    Raises ConfigError if there is no such file or section, or if there is no application with a
    queue, or more than one.
    """
    path = config_file.partition("#")[0]
    if not os.path.isfile(path):
        raise ConfigError(f"expected the .ini file of an application (-c), got {path!r}: no file")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    apps: list[Any] = []
    tg.hooks.register("configure_new_app", apps.append)
    try:
        loadapp(f"config:{config_file}", relative_to=here)
    except LookupError as error:
        if not _is_of_paste(error):
            raise
        raise ConfigError(f"{config_file}: {error}") from None
    finally:
        tg.hooks.disconnect("configure_new_app", apps.append)
    found = {id(queue): queue for app in apps if (queue := _queue_of(app)) is not None}
    if len(found) != 1:
        came = "none" if not found else f"{len(found)}: name its section as {path}#SECTION"
        raise ConfigError(
            f"expected one application with a job queue in {config_file}, got {came}; "
            "start_async_worker() in Globals.__init__, or plug(), gives it one"
        )
    [queue] = found.values()
    return queue


def _is_of_paste(error: LookupError) -> bool:
    """Whether Paste raised *error*, for the .ini file, and not the application."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("paste.deploy")


def _queue_of(app: Any) -> JobQueue | None:
    queue = getattr(app.config.get("tg.app_globals"), "asyncjob_queue", None)
    return queue if isinstance(queue, JobQueue) else None


def _named(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)


class WorkerCommand(_AsyncJobCommand):
    command = _named("worker")


class CeleryCommand(_AsyncJobCommand):
    command = _named("celery")


class StatusCommand(_AsyncJobCommand):
    command = _named("status")


class RetryCommand(_AsyncJobCommand):
    command = _named("retry")


class CancelCommand(_AsyncJobCommand):
    command = _named("cancel")


class PurgeCommand(_AsyncJobCommand):
    command = _named("purge")


class PauseCommand(_AsyncJobCommand):
    command = _named("pause")


class ResumeCommand(_AsyncJobCommand):
    command = _named("resume")


class SchedulesCommand(_AsyncJobCommand):
    command = _named("schedules")


class SchemaCommand(_AsyncJobCommand):
    command = _named("schema")
