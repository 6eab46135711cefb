"""The messages between a worker and the child process of an attempt.

A message is one byte, its kind, and a pickle. Pickles are safe here: both ends are the same
program, and no other process has an end of the channel.
"""

from __future__ import annotations

import io
import logging
import pickle
import sys
from collections.abc import Callable
from dataclasses import fields
from types import FunctionType
from typing import Any

from ...call import Call
from ...errors import NotSerializable
from ...job import Claim, Job, JobId
from ...task import Task, held_at
from ...task_options import BACKOFF_SECONDS, TaskOptions
from ...task_result import NotKept

log = logging.getLogger(__name__)

#: From the worker: an answer; an interruption. Its first message, the job, has no kind.
ANSWER, INTERRUPT = b"a", b"o"
#: From the child: a call of the worker; the stack at an interruption; the outcome; an error that
#: reading the job raised.
ASK, STACK, END, UNREAD = b"q", b"s", b"e", b"u"

_CLAIM = "claim"


class _Writer(pickle.Pickler):
    """Pickles two things that pickle does not: the function of a Task, and, as a reference, a claim
    that both ends have."""

    def __init__(self, file: io.BytesIO, claim: Claim | None, plain: bool) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._claim = claim
        self._plain = plain

    def persistent_id(self, value: Any) -> str | None:
        return _CLAIM if value is self._claim and value is not None else None

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is FunctionType:
            held = held_at(value)  # its path leads to the Task above it
            if isinstance(held, Task) and held.func is value:
                return _function_of, (held,)
        if kind is Job and self._plain:
            return Job, tuple(value._replace(options=_plain(value.options)))
        return NotImplemented


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, claim: Claim | None) -> None:
        super().__init__(file)
        self._claim = claim

    def persistent_load(self, _name: str) -> Any:
        return self._claim


def pack(value: object, claim: Claim | None = None, *, plain: bool = False) -> bytes:
    """Pickle *value*; raises whatever pickle and the value's own code raise.

    claim: a claim that the reader has too. plain: whether functions and executors are left out of
    the options of jobs.
    """
    file = io.BytesIO()
    _Writer(file, claim, plain).dump(value)
    return file.getvalue()


def unpack(content: bytes, claim: Claim | None = None) -> Any:
    """Unpickle a value; raises whatever its classes raise. claim: as for ``pack``."""
    return _Reader(io.BytesIO(content), claim).load()


def not_kept(uid: JobId, what: str, error: Exception) -> NotKept:
    """Return the NotKept for a result that cannot be sent or read, and log it.

    what: what the process could not do.
    """
    why = f"its process could not {what} ({type(error).__name__}: {error})"
    log.warning("job=%s succeeded, return value not kept: %s", uid, why)
    return NotKept(why)


def check_picklable(call: Call, options: TaskOptions | None = None) -> None:
    """Raise NotSerializable for a call, or for options, that cannot be pickled."""
    try:
        pack((tuple(call), options))
    except Exception as error:
        raise NotSerializable(
            f'executor: "process" expected a call that can be sent to a process, got one of '
            f"{call.name} that cannot be pickled ({type(error).__name__}: {error}); give it a "
            "module-level function and plain values, or run it in a thread"
        ) from error


def has_process_tasks() -> bool:
    """Whether a loaded module has a task with ``executor="process"``."""
    return any(
        type(value) is Task and value.executor == "process"
        for module in list(sys.modules.values())
        for value in list(getattr(module, "__dict__", {}).values())
    )


def _function_of(task: Task) -> Callable[..., Any]:
    return task.func


def _plain(options: TaskOptions) -> TaskOptions:
    """Return the options without an executor, and with a number for a backoff function."""
    found = {field.name: getattr(options, field.name) for field in fields(TaskOptions)}
    if callable(options.backoff):
        found["backoff"] = BACKOFF_SECONDS
    if not isinstance(options.executor, str):
        del found["executor"]
    return TaskOptions(**found)
