"""Log lines of a job carry its uid, and the attempt keeps its last ones.

A record made inside a job gets the attribute ``asyncjob_uid`` and its message begins with
``job=<uid>``, whatever formatter the application has. That is done where records
are made, because handlers and filters of the application's own choosing would see only some.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..current import attempt_var
from ..job import TaskError
from ..one_line import one_line

#: The attribute of a record; ``extra={"job": ...}`` must stay free for the application, since
#: logging raises KeyError where it finds one that is there.
UID = "asyncjob_uid"
#: Lines kept of an attempt.
LINES = 100
#: Characters kept of a line.
LINE_LENGTH = 1_000

#: The whole package, not only this part of it.
_PACKAGE = __name__.partition(".worker.")[0] + "."


class _JobRecords:
    """The application's record factory, and the uid of the job in what it makes."""

    def __init__(self, inner: Callable[..., logging.LogRecord]) -> None:
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._inner(*args, **kwargs)
        if record.name.startswith(_PACKAGE) and isinstance(record.args, tuple):
            record.args = tuple(map(_argument, record.args))
        attempt = attempt_var.get()
        if attempt is None:
            return record
        if hasattr(record, UID):  # the factory was wrapped, and then we were put around it again
            return record
        setattr(record, UID, attempt.uid)
        if record.name.startswith(_PACKAGE):
            return record  # our own lines name their job, wherever they are written
        attempt.log_line(_line(record))
        if not isinstance(record.msg, str):
            return record  # its str() may raise, where logging expects that, and not here
        if isinstance(record.args, tuple):
            # As an argument, so that what groups by record.msg still finds one message.
            record.msg = "job=%s " + (record.msg if record.args else _literal(record.msg))
            record.args = (attempt.uid, *record.args)
        else:  # one mapping, for %(name)s
            record.msg = f"job={attempt.uid} {record.msg}"
        return record


def install() -> None:
    """Add the uid to the records of jobs from now on, in the whole process; enable our loggers.

    To be called once the application is loaded; again does no harm.
    """
    _enable()
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _JobRecords):
        # Two threads at once wrap the same factory, and the last one stays: no harm done.
        logging.setLogRecordFactory(_JobRecords(factory))


def _argument(value: object) -> object:
    """What stands for an argument of a log line of our own: texts and errors are the jobs', and
    must not look like a line of ours."""
    if isinstance(value, BaseException):
        value = TaskError.of(value).message
    return one_line(value) if type(value) is str else value


def _enable() -> None:
    """Enable the loggers that an application's ``fileConfig`` or ``dictConfig`` has disabled.

    Both disable each existing logger that they do not name: a failed job would
    leave no line anywhere. To silence a logger, set its level.
    """
    for name in list(logging.root.manager.loggerDict):
        if f"{name}.".startswith(_PACKAGE):
            logging.getLogger(name).disabled = False


def _literal(message: str) -> str:
    """A message that came without arguments is not a format, until it gets one."""
    return message.replace("%", "%%")


def _line(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - logging reports a bad format itself, and later
        message = f"{type(record.msg).__name__} that cannot be printed"
    return f"{record.levelname} {record.name}: {message}"[:LINE_LENGTH]
