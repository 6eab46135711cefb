"""Backends, which store jobs: a package each, loaded by name at the first use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from ..errors import MissingExtra
from ..options import Options
from ..wakeups import make_publisher
from .base import Backend

_unopened: ContextVar[bool] = ContextVar("asyncjob_unopened", default=False)
_only_present: ContextVar[bool] = ContextVar("asyncjob_only_present", default=False)


def make_backend(options: Options, engine: Any = None) -> Backend:
    """Make the backend that *options* name. engine: that of SQLAlchemy, for ``sql``.

    Raises MissingExtra, and ConfigError for a database or a Celery app that cannot be used.
    """
    made: Backend
    if options.backend == "memory":
        made = _class_of("memory", "MemoryBackend")(
            retention_seconds=options.retention, max_crashes=options.max_crashes
        )
        return made
    kind = _class_of("sql", "SqlBackend")
    if _only_present.get():
        kind.check_present(engine)
    made = kind(
        engine,
        secret=options.secret,
        prefix=options.table_prefix,
        schema=options.schema,
        retention_seconds=options.retention,
        lease_seconds=options.lease,
        max_crashes=options.max_crashes,
        publisher=make_publisher(options),
    )
    try:
        if not _unopened.get():
            made.open(create_tables=options.create_tables)
    except BaseException:
        made.close()
        raise
    return made


def left_unopened(yes: bool = True) -> AbstractContextManager[None]:
    """Inside the block, make backends without checking or making their tables.

    For commands that show a database as it is: of another version, or without tables.
    """
    return _set(_unopened, yes)


def only_present(yes: bool = True) -> AbstractContextManager[None]:
    """Inside the block, make backends only on a database that exists: a connection to a SQLite
    file would create it.

    For commands that read, or change what exists; yes: False for a command that may create it.
    """
    return _set(_only_present, yes)


@contextmanager
def _set(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _class_of(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"{__name__}.{package}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("sqlalchemy", "itsdangerous"):
            raise
        raise MissingExtra(f"asyncjob.backend = {package}", "sqlalchemy") from error
