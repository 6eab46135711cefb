"""Log lines of a job carry its uid, and the attempt keeps its last ones.

A record made inside a job gets the attribute ``asyncjob_uid`` and its message begins with
``job=<uid>``, whatever formatter the application has. The record factory does that: a handler or
filter sees only the records of some loggers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..current import attempt_var
from ..job import TaskError
from ..one_line import one_line

#: The attribute of a record. It is not named ``job``, so that the application can use
#: ``extra={"job": ...}``: logging raises KeyError for a name that the record has already.
UID = "asyncjob_uid"
#: Lines kept of an attempt.
LINES = 100
#: Characters kept of a line.
LINE_LENGTH = 1_000

#: The name of the whole package.
_PACKAGE = __name__.partition(".worker.")[0] + "."


class _JobRecords:
    """Wraps the application's record factory, and adds the uid of the job to its records."""

    def __init__(self, inner: Callable[..., logging.LogRecord]) -> None:
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._inner(*args, **kwargs)
        if record.name.startswith(_PACKAGE) and isinstance(record.args, tuple):
            record.args = tuple(map(_argument, record.args))
        attempt = attempt_var.get()
        if attempt is None:
            return record
        if hasattr(record, UID):  # the factory wraps another one of this class
            return record
        setattr(record, UID, attempt.uid)
        if record.name.startswith(_PACKAGE):
            return record  # lines of this package name their job themselves
        attempt.log_line(_line(record))
        if not isinstance(record.msg, str):
            return record  # its str() may raise, which logging handles later
        if isinstance(record.args, tuple):
            # As an argument, so that tools that group by record.msg find one message.
            record.msg = "job=%s " + (record.msg if record.args else _literal(record.msg))
            record.args = (attempt.uid, *record.args)
        else:  # one mapping, for %(name)s
            record.msg = f"job={attempt.uid} {record.msg}"
        return record


def install() -> None:
    """Add the uid to the records of jobs from now on, in the whole process, and enable the loggers
    of this package.

    Call it once the application is loaded; a second call changes nothing.
    """
    _enable()
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _JobRecords):
        # If two threads do this at once, both wrap the same factory, and one of the two stays.
        logging.setLogRecordFactory(_JobRecords(factory))


def _argument(value: object) -> object:
    """Return an argument of this package's log lines as one line: texts and errors come from jobs,
    and must not look like another log line."""
    if isinstance(value, BaseException):
        value = TaskError.of(value).message
    return one_line(value) if type(value) is str else value


def _enable() -> None:
    """Enable the loggers that an application's ``fileConfig`` or ``dictConfig`` has disabled.

    Both disable each existing logger that they do not name; a failed job would then not be logged
    at all. To silence a logger, set its level.
    """
    for name in list(logging.root.manager.loggerDict):
        if f"{name}.".startswith(_PACKAGE):
            logging.getLogger(name).disabled = False


def _literal(message: str) -> str:
    """Escape a message without arguments, which becomes a format when it gets one."""
    return message.replace("%", "%%")


def _line(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - logging reports a bad format itself, and later
        message = f"{type(record.msg).__name__} that cannot be printed"
    return f"{record.levelname} {record.name}: {message}"[:LINE_LENGTH]
