"""``celery -A tgext.asyncjob.celery worker``: Celery's program, with the jobs of an application.

ASYNCJOB_CONFIG names the application: an .ini file, or MODULE:NAME as ``--app`` of
``python -m tgext.asyncjob``. The app is made when Celery asks for it.
"""

from __future__ import annotations

import importlib
import os
from argparse import Namespace
from functools import partial
from typing import Any

from .__main__ import load as load_queue
from .cli.celery import fleet_of
from .cli.command_result import CommandResult
from .errors import ConfigError
from .queue import JobQueue

#: The variable of the environment that names the application.
CONFIG_VARIABLE = "ASYNCJOB_CONFIG"

_made: list[Any] = []


def __getattr__(name: str) -> Any:
    if name not in ("app", "celery"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not _made:
        _made.append(_make())
    return _made[0].app


def _make() -> Any:
    path = os.environ.get(CONFIG_VARIABLE, "").strip()
    if not path:
        raise SystemExit(
            f"celery -A {__name__}: expected ${CONFIG_VARIABLE} to name the application, an .ini "
            "file or MODULE:NAME, got nothing"
        )
    fleet = fleet_of(partial(_load, path))
    if isinstance(fleet, CommandResult):
        raise SystemExit(f"celery -A {__name__}: {fleet.text}")
    return fleet


def _load(path: str) -> JobQueue:
    if ".ini" not in path:
        return load_queue(Namespace(app=path, url=None))
    try:
        commands = importlib.import_module(f"{__package__}.turbogears.commands")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"${CONFIG_VARIABLE} = {path}: an .ini file needs gearbox, and there is no module "
            f"{error.name!r}; name the queue as MODULE:NAME"
        ) from error
    queue: JobQueue = commands.load(path)
    return queue
