"""``python -m tgext.asyncjob worker --url ...``: the commands without an .ini file.

--url makes a queue on a database. --app names a queue in a module of the application, or a callable
that returns one. With both, the callable is called with the URL.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from functools import partial

from .cli import COMMANDS, run_command
from .errors import ConfigError
from .queue import JobQueue

#: Environment variables for a URL or a secret that a list of processes should not show.
URL_VARIABLE = "ASYNCJOB_URL"
SECRET_VARIABLE = "ASYNCJOB_SECRET"

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(process)d %(message)s"


def main(arguments: list[str] | None = None) -> int:
    """Run the command of a command line; return the exit code.

    arguments: None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tgext.asyncjob", description="Background jobs of any application."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name, help=command.summary, description=command.summary.capitalize() + "."
        )
        _add_address(subparser)
        command.add_arguments(subparser)
    wanted = parser.parse_args(arguments)
    [command] = [each for each in COMMANDS if each.name == wanted.command]
    if command.tells:
        pass  # Celery sets up the logging of its processes
    elif command.is_service:
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    else:
        logging.basicConfig(level=logging.ERROR)
    return run_command(command, partial(load, wanted), wanted)


def _add_address(parser: argparse.ArgumentParser) -> None:
    address = parser.add_argument_group("where the jobs are")
    address.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE),
        help=f"SQLAlchemy URL of the database (default: ${URL_VARIABLE})",
    )
    address.add_argument(
        "--app", metavar="MODULE:NAME", help="a JobQueue, or a callable that returns one"
    )
    address.add_argument(
        "--secret",
        default=os.environ.get(SECRET_VARIABLE),
        help=f"asyncjob.secret of a queue on --url (default: ${SECRET_VARIABLE})",
    )
    address.add_argument(
        "--table-prefix", metavar="PREFIX", help="asyncjob.table_prefix of a queue on --url"
    )


def load(wanted: argparse.Namespace) -> JobQueue:
    """Return the queue of a command line; raises ConfigError."""
    if wanted.app is not None:
        return _queue_of(wanted.app, wanted.url)
    if wanted.url is None:
        raise ConfigError("expected --url URL, or --app MODULE:NAME, got neither")
    options = {"secret": wanted.secret, "table_prefix": wanted.table_prefix}
    return JobQueue("sql", url=wanted.url, **options)


def _queue_of(path: str, url: str | None) -> JobQueue:
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"--app: expected MODULE:NAME, got {path!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not module_name.startswith(error.name or " "):
            raise
        raise ConfigError(f"--app {path}: there is no module {error.name!r}") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"--app {path}: {module_name} has no {name!r}")
        found = getattr(found, part)
    if isinstance(found, JobQueue):
        return found
    made = None
    if callable(found):
        made = found() if url is None else found(url)
    if not isinstance(made, JobQueue):
        shown = type(found if made is None else made).__name__
        raise ConfigError(
            f"--app {path}: expected a JobQueue, or a callable that returns one, got {shown}"
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
