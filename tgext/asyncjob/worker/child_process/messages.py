"""The messages between a worker and the child process of an attempt.

A message is one byte, its kind, and a pickle. Both ends are the same program, and no other process
has an end of the channel.
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
from ...job import BACKOFF_SECONDS, Claim, Job, JobId, TaskOptions
from ...task import NotKept, Task, held_at

log = logging.getLogger(__name__)

#: From the worker: an answer; what is to end the attempt. Its first message, the job, has no kind.
ANSWER, INTERRUPT = b"a", b"o"
#: From the child: a call; the stack where it was interrupted; its outcome; that it cannot read the
#: job.
ASK, STACK, END, UNREAD = b"q", b"s", b"e", b"u"

_CLAIM = "claim"


class _Writer(pickle.Pickler):
    """Pickles what plain pickle does not: functions below ``@task``, and a claim that both ends
    have."""

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
    """Pickle *value*; raises whatever pickle and the value's own code do.

    claim: one that the reader has, too. plain: whether jobs go without what of their options
    cannot travel.
    """
    file = io.BytesIO()
    _Writer(file, claim, plain).dump(value)
    return file.getvalue()


def unpack(content: bytes, claim: Claim | None = None) -> Any:
    """Return the value; raises whatever its classes do."""
    return _Reader(io.BytesIO(content), claim).load()


def not_kept(uid: JobId, what: str, error: Exception) -> NotKept:
    """Return what stands for a result that does not arrive, and say it in the log. what: it was
    not possible to do."""
    why = f"its process could not {what} ({type(error).__name__}: {error})"
    log.warning("job=%s succeeded, return value not kept: %s", uid, why)
    return NotKept(why)


def check_picklable(call: Call, options: TaskOptions | None = None) -> None:
    """Raise NotSerializable for a call, or for options, that cannot be pickled."""
    try:
        pack((tuple(call), options))
    except Exception as error:
        raise NotSerializable(
            f'executor: "process" expected a call that can be handed to a process, got one of '
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
    """The options without a function and an executor of the application's."""
    found = {field.name: getattr(options, field.name) for field in fields(TaskOptions)}
    if callable(options.backoff):
        found["backoff"] = BACKOFF_SECONDS
    if not isinstance(options.executor, str):
        del found["executor"]
    return TaskOptions(**found)
