"""The nouns of every other module: a job, its states, a claim on it, its outcome.

Standard library only; nothing here reads a clock, a lock or a database. What was *asked*
(``Job``) never changes; how it *stands* (``Snapshot``) is read from a backend, which alone
may change it.
"""

from __future__ import annotations

import difflib
import importlib
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta, timezone
from enum import Enum
from types import FrameType, TracebackType
from typing import Any, NamedTuple, NewType

from .amount import is_int, is_number
from .call import Call
from .errors import ConfigError

_PACKAGE = __name__.rpartition(".")[0] + "."

JobId = NewType("JobId", str)
WorkerId = NewType("WorkerId", str)

#: Longest message and traceback that are kept of an error, in characters: a job that raises a
#: 2 MB message must not cost every reader of its result 2 MB.
MESSAGE_LENGTH = 10_000
TRACEBACK_LENGTH = 50_000


class TaskResultStatus(str, Enum):
    """How a job stands. A string too, so that it goes into JSON and templates as it is."""

    READY = "READY"  #: waits: for a worker, for its ``run_after``, or for its next attempt
    RUNNING = "RUNNING"  #: claimed by a worker
    SUCCESSFUL = "SUCCESSFUL"  #: returned, and its work is committed
    FAILED = "FAILED"  #: raised, timed out or lost its worker once too often
    CANCELLED = "CANCELLED"  #: taken back before it ended

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in _FINAL


READY, RUNNING, SUCCESSFUL, FAILED, CANCELLED = TaskResultStatus
_FINAL = frozenset({SUCCESSFUL, FAILED, CANCELLED})


class Progress(NamedTuple):
    """What a job last reported."""

    value: int = -1  #: -1 until something is reported
    data: Any = None  #: whatever the job gave with it
    total: int | None = None  #: the value at which the job will be done, where it knows


NO_PROGRESS = Progress()


class TaskError(NamedTuple):
    """Why one attempt failed."""

    exception_class_path: str  #: ``module.Class``
    message: str  #: ``str()`` of the exception, about MESSAGE_LENGTH characters at the most
    traceback: str  #: as Python prints it, from the job's own first frame

    @property
    def exception_class(self) -> type[BaseException] | None:
        """The class, where it can be imported; else None."""
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
    """Return its traceback from the first frame that is not this package's."""
    found = error.__traceback__
    while found is not None and is_ours(found.tb_frame):
        found = found.tb_next
    return found or error.__traceback__


def is_ours(frame: FrameType) -> bool:
    """Whether a frame runs code of this package."""
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and module.startswith(_PACKAGE)


def storable(text: str) -> str:
    """Escape what UTF-8 (half a surrogate pair, as in the name of an odd file) or a database's
    text (NUL) does not hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


#: Second attempt after 2 s (to let a passing fault pass), then 4, 8, ... up to a day, which is
#: also the bound for a backoff of one's own: a job that waits longer is forgotten, not retried.
BACKOFF_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 86_400.0


#: Where an attempt may run, by name: in a thread of the worker, in a process of its own, or in a
#: thread that runs a coroutine function, as any thread does.
EXECUTORS = ("thread", "process", "coroutine")

#: More than any job needs, and a column of a database holds it twice.
MOST_ATTEMPTS = 1_000_000_000

#: A hundred years: what is meant to be for ever, or a mistake, is beyond it.
LONGEST_DELAY = timedelta(days=36_525)


@dataclass(frozen=True)
class TaskOptions:
    """How jobs of a task are run; checked when made, so that ``@task`` fails at import.

    Raises ConfigError for a value out of range. The name of a queue may be one that an earlier
    release took: ``queue_name.py`` is for new ones.
    """

    priority: int = 0  #: -100..100, larger first
    queue_name: str = "default"  #: the lane; a worker may serve some only
    takes_context: bool = False  #: the first argument is a TaskContext
    max_attempts: int = 1  #: 1: no second try
    #: seconds before the second attempt, doubled for each further one, with up to a quarter
    #: more as jitter; or a callable of the number of the attempt that failed
    backoff: float | Callable[[int], float] = BACKOFF_SECONDS
    timeout: float | None = None  #: seconds an attempt may take; None: no bound
    #: "thread", "process": where the whole attempt runs; "coroutine": a thread, for an `async def`
    #: function only. An executor is given the bare call, which the attempt waits for: what the
    #: call does over there is outside the job's transaction, and happens at least once
    executor: str | Executor = "thread"

    def __post_init__(self) -> None:
        _expect(
            is_int(self.priority) and -100 <= self.priority <= 100,
            "priority", "a whole number from -100 to 100, larger first", self.priority,
        )  # fmt: skip
        _expect(
            isinstance(self.queue_name, str) and 0 < len(self.queue_name) <= 64,
            "queue_name", "a name of 1 to 64 characters", self.queue_name,
        )  # fmt: skip
        _expect(
            isinstance(self.takes_context, bool),
            "takes_context", "True or False", self.takes_context,
        )  # fmt: skip
        _expect(
            is_int(self.max_attempts) and self.max_attempts >= 1,
            "max_attempts", "a whole number, at least 1", self.max_attempts,
        )  # fmt: skip
        _expect(
            self.max_attempts <= MOST_ATTEMPTS,
            "max_attempts", f"at most {MOST_ATTEMPTS}", self.max_attempts,
        )  # fmt: skip
        _expect(
            callable(self.backoff) or (is_number(self.backoff) and self.backoff >= 0),
            "backoff", "seconds, at least 0, or a callable of the attempt", self.backoff,
        )  # fmt: skip
        _expect(
            self.timeout is None
            or (is_number(self.timeout) and 0 < self.timeout <= LONGEST_DELAY.total_seconds()),
            "timeout", "seconds, more than 0, or None", self.timeout,
        )  # fmt: skip
        _expect(
            isinstance(self.executor, Executor) or self.executor in EXECUTORS,
            "executor", _executors_expected(self.executor), self.executor,
        )  # fmt: skip
        # Members of an Enum, say, which not every driver of a database takes for what they are.
        for name, plain in (("priority", int), ("max_attempts", int), ("queue_name", str.__str__)):
            object.__setattr__(self, name, plain(getattr(self, name)))

    def delay_seconds(self, attempt: int, jitter: float) -> float:
        """How long to wait after attempt number *attempt* (1 for the first) failed.

        jitter: 0 to 1, spreads jobs that failed together.
        Raises ConfigError if a ``backoff`` callable does not give seconds.
        """
        if callable(self.backoff):
            seconds = self.backoff(attempt)
            _expect(is_number(seconds) and seconds >= 0, "backoff", "to give seconds", seconds)
        else:
            # The exponent is bounded since 2.0 ** 1024 raises OverflowError.
            seconds = self.backoff * 2.0 ** min(attempt - 1, 60) * (1 + jitter / 4)
        return min(float(seconds), LONGEST_BACKOFF_SECONDS)


def check_run_after(value: object) -> datetime | timedelta | None:
    """Return *value* if a job can wait for it.

    Raises ConfigError for a naive datetime, a negative delay, or anything else.
    """
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ConfigError(
            f"run_after: expected an aware datetime, got the naive {value!r}; "
            "use datetime.now(timezone.utc) or a timedelta"
        )
    if isinstance(value, timedelta) and value < timedelta(0):
        raise ConfigError(
            f"run_after: expected a delay of 0 or more, got {value!r}; "
            "leave it out to run as soon as a worker is free"
        )
    if value is None:
        return None
    if isinstance(value, (datetime, timedelta)):
        if _is_on_the_calendar(value):
            return value
        raise ConfigError(
            f"run_after: expected a moment of this century or so, got {value!r}; "
            f"the longest delay is {LONGEST_DELAY.days} days"
        )
    raise ConfigError(
        f"run_after: expected an aware datetime or a timedelta, got {value!r}; "
        "for seconds use timedelta(seconds=...)"
    )


def _is_on_the_calendar(value: datetime | timedelta) -> bool:
    if isinstance(value, timedelta):
        return value <= LONGEST_DELAY
    try:
        return value.astimezone(timezone.utc).year < MAXYEAR
    except OverflowError:
        return False


def _executors_expected(got: object) -> str:
    names = ", ".join(f'"{name}"' for name in EXECUTORS)
    near = difflib.get_close_matches(got, EXECUTORS, 1) if isinstance(got, str) else ()
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    return f"{names} or a concurrent.futures.Executor{hint}"


def _expect(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"{name}: expected {expected}, got {got!r}")


DEFAULT_OPTIONS = TaskOptions()


class Job(NamedTuple):
    """What was asked: immutable, and small, because a hundred thousand may wait."""

    uid: JobId
    call: Call
    options: TaskOptions  #: shared by all jobs of a task
    run_after: datetime | timedelta | None = None  #: not before; a timedelta counts from enqueue
    context: Mapping[str, Any] | None = None  #: what ``capture`` saw: user, language, request id


class Claim(NamedTuple):
    """A worker's right to run one attempt of a job."""

    job: Job
    lease: int  #: the fencing token: with the worker, never given twice for one job
    attempt: int  #: 1 for the first
    attempts_left: int  #: further ones that the job's budget allows after this one
    crashes_left: int = 0  #: further deaths of a worker, or losses of the database, it may cause
    worker_id: str = ""  #: whose it is


class Outcome(NamedTuple):
    """What became of an attempt, decided by the machine and only stored by the backend."""

    status: TaskResultStatus  #: READY: another attempt, in ``delay_seconds``
    result: Any = None
    error: TaskError | None = None
    delay_seconds: float = 0.0
    log: tuple[str, ...] = ()  #: the attempt's log lines, oldest first
    crashed: bool = False  #: it costs the job a crash, and READY then no attempt


class WorkerInfo(NamedTuple):
    """A worker, as its registry knows it."""

    worker_id: str
    host: str
    pid: int
    threads: int
    queues: tuple[str, ...] | None  #: names that it serves; None: all
    started_at: datetime
    seen_at: datetime  #: its last heartbeat
    stopping: bool  #: it was told to stop, or stands under a reloader


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a job stood at one moment; instants are aware UTC."""

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
    worker_id: str | None = None  #: who runs it, where that is known
    crashes: int = 0  #: deaths of workers while they ran it
