"""``schema``: show the version of the tables and their SQL; create or upgrade them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from ..queue import JobQueue
from .command_result import FINE, NOTHING_FOUND, USAGE, CommandResult, as_json
from .output import one_line
from .shared_backend import shared_backend


def add_arguments(parser: ArgumentParser) -> None:
    options = parser.add_mutually_exclusive_group()
    options.add_argument("--sql", action="store_true", help="print the SQL that creates the tables")
    options.add_argument(
        "--create", action="store_true", help="create the tables, if there are none"
    )
    options.add_argument(
        "--upgrade", action="store_true", help="upgrade older tables to this version"
    )
    options.add_argument("--json", action="store_true", help="the versions as JSON")


def run(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Show the versions, or create or upgrade the tables, which are not checked yet."""
    schema = shared_backend(queue).schema
    if wanted.sql:
        return CommandResult(_sql(schema).expandtabs(4))  # a tab would be printed as an escape
    found, expected = schema.version(), schema.expected
    if wanted.create or wanted.upgrade:
        return _make(schema, found, create=wanted.create)
    code = FINE if found == expected else NOTHING_FOUND
    if wanted.json:
        return as_json({"found": found, "expected": expected}, code)
    lines = [f"found: {'no tables' if found is None else f'version {found}'}"]
    lines.append(f"expected: version {expected}")
    if found is None:
        lines.append("make them: --create, or execute what --sql prints")
    elif found < expected:
        lines.append("upgrade them to this version: --upgrade")
    elif found > expected:
        lines.append("a newer tgext.asyncjob made them: install that one here too")
    return CommandResult("\n".join(lines), code)


def _sql(schema: Any) -> str:
    parts = [f"{statement};" for statement in schema.statements()]
    side_file = schema.side_file
    if side_file is not None:
        parts.insert(0, f"-- progress and workers belong in the file {one_line(str(side_file))}")
    return "\n\n".join(parts)


def _make(schema: Any, found: int | None, *, create: bool) -> CommandResult:
    expected = schema.expected
    if found is None and not create:
        return CommandResult("there are no tables to upgrade; make them: --create", USAGE)
    if found is not None and found < expected and create:
        return CommandResult(
            f"the tables exist, in version {found}; upgrade them: --upgrade", USAGE
        )
    schema.check(create=True)  # refuses newer tables, and creates those that are missing
    if found == expected:
        return CommandResult(f"the tables existed, in version {expected}")
    return CommandResult(
        f"{'made the tables in' if create else 'upgraded the tables to'} version {expected}"
    )
