"""The model: a job, its options and statuses, a claim on it, its outcome.

Standard library only; nothing here uses a clock, a lock or a database. A ``Job`` is what was
enqueued, and never changes. A ``Snapshot`` is its state, which a backend stores and alone changes.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from types import FrameType, TracebackType
from typing import Any, NamedTuple, NewType

from .call import Call
from .policies import Keys
from .task_options import TaskOptions

_PACKAGE = __name__.rpartition(".")[0] + "."

JobId = NewType("JobId", str)
WorkerId = NewType("WorkerId", str)

#: Longest message and traceback of an error that are stored, in characters: an error with a
#: message of 2 MB must not cost every reader of the result 2 MB.
MESSAGE_LENGTH = 10_000
TRACEBACK_LENGTH = 50_000


class TaskResultStatus(str, Enum):
    """The status of a job. Also a str, so that JSON and templates can use it as it is."""

    READY = "READY"  #: waits for a worker, for its ``run_after``, or for its next attempt
    RUNNING = "RUNNING"  #: claimed by a worker
    SUCCESSFUL = "SUCCESSFUL"  #: its function returned, and its work is committed
    FAILED = "FAILED"  #: the last allowed attempt raised or timed out, or too many workers died
    CANCELLED = "CANCELLED"  #: cancelled before it ended

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in _FINAL


READY, RUNNING, SUCCESSFUL, FAILED, CANCELLED = TaskResultStatus
_FINAL = frozenset({SUCCESSFUL, FAILED, CANCELLED})


class Progress(NamedTuple):
    """The last progress report of a job."""

    value: int = -1  #: how much is done; -1 before the first report
    data: Any = None  #: what the job passed with it
    total: int | None = None  #: the value at which the job will be done; None: unknown


NO_PROGRESS = Progress()


class TaskError(NamedTuple):
    """Why one attempt failed."""

    exception_class_path: str  #: ``module.Class``
    message: str  #: ``str()`` of the exception; longer than 10,000 characters, shortened
    traceback: str  #: as Python prints it, from the first frame outside of this package
    at: datetime | None = None  #: when the attempt ended, aware UTC; None: not known
    attempt: int | None = None  #: its number, 1 for the first; None: not known
    worker_id: str | None = None  #: the worker that ran it; None: not known, or this process

    @property
    def exception_class(self) -> type[BaseException] | None:
        """The class of the exception; None if it cannot be imported."""
        module_name, _, name = self.exception_class_path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError, ValueError):
            return None
        return found if isinstance(found, type) and issubclass(found, BaseException) else None

    @classmethod
    def of(cls, error: BaseException) -> TaskError:
        """Describe *error*; never raises, whatever its ``__str__`` does."""
        kind = type(error)
        try:
            message = str(error)
        except BaseException:  # noqa: BLE001 - a job's own __str__ may raise anything
            message = f"<{kind.__name__} that cannot be printed>"
        try:
            lines = traceback.format_exception(kind, error, outside_frames(error))
            text = "".join(lines)
        except BaseException:  # noqa: BLE001 - format_exception calls it too
            text = message
        path = f"{kind.__module__}.{kind.__qualname__}"
        message, text = _shortened(message, MESSAGE_LENGTH), _shortened(text, TRACEBACK_LENGTH)
        return cls(storable(path), storable(message), storable(text))


def outside_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback of *error* from the first frame outside of this package."""
    found = error.__traceback__
    while found is not None and is_ours(found.tb_frame):
        found = found.tb_next
    return found or error.__traceback__


def is_ours(frame: FrameType) -> bool:
    """Whether a frame runs code of this package."""
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(_PACKAGE)


def storable(text: str) -> str:
    """Return *text* with escapes for lone surrogates, which UTF-8 cannot encode, and for NUL,
    which the text columns of a database refuse."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


class Job(NamedTuple):
    """One request to run a call: immutable, and small, because a hundred thousand may wait."""

    uid: JobId
    call: Call
    options: TaskOptions  #: shared by all jobs of a task
    run_after: datetime | timedelta | None = None  #: earliest start; a timedelta from the enqueue
    context: Mapping[str, Any] | None = None  #: what ``capture`` returned: user, language, ...
    keys: Keys | None = None  #: what it must be admitted by; None: nothing


class Claim(NamedTuple):
    """A worker's right to run one attempt of a job."""

    job: Job
    lease: int  #: the fencing token; with the worker's id, unique among the claims of a job
    attempt: int  #: 1 for the first
    attempts_left: int  #: further attempts that the job's budget allows after this one
    crashes_left: int = 0  #: further crashes (deaths of a worker, losses of the database) allowed
    worker_id: str = ""  #: the worker that has it


class Outcome(NamedTuple):
    """The outcome of an attempt: decided by the worker, stored by the backend."""

    status: TaskResultStatus  #: READY: another attempt, in ``delay_seconds``
    result: Any = None
    error: TaskError | None = None
    delay_seconds: float = 0.0
    log: tuple[str, ...] = ()  #: the attempt's log lines, oldest first
    crashed: bool = False  #: it counts as a crash; READY then does not count as an attempt


class WorkerInfo(NamedTuple):
    """A worker, as the registry of workers describes it."""

    worker_id: str
    host: str
    pid: int
    threads: int
    queues: tuple[str, ...] | None  #: names of the queues that it serves; None: all
    started_at: datetime
    seen_at: datetime  #: its last heartbeat
    stopping: bool  #: it is stopping, or a reloader runs its process


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a job at one moment; instants are aware UTC."""

    job: Job
    status: TaskResultStatus
    enqueued_at: datetime
    run_at: datetime | None = None  #: earliest start; None: at once
    started_at: datetime | None = None  #: of the first attempt
    last_attempted_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    errors: tuple[TaskError, ...] = ()
    result: Any = None
    progress: Progress = NO_PROGRESS
    log: tuple[str, ...] = ()
    worker_id: str | None = None  #: the worker that runs it; None: none, or unknown
    crashes: int = 0  #: deaths of workers while they ran it
    eta_seconds: float | None = None  #: estimated, until it is done; None: unknown
    is_duplicate: bool = False  #: the uid that was asked for is of a job that gave way to this one
