"""The model: a job, its options and statuses, a claim on it, its outcome.

Standard library only; nothing here uses a clock, a lock or a database. A ``Job`` is what was
enqueued, and never changes. A ``Snapshot`` is its state, which a backend stores and alone changes.
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


#: The second attempt begins after 2 s, which a brief fault may take, the next ones after 4, 8, ...
#: up to a day. A day is also the bound for a backoff of the task's own.
BACKOFF_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 86_400.0


#: Where an attempt may run, by name: in a thread of the worker, in a process of its own, or in a
#: thread of the worker, for a coroutine function only.
EXECUTORS = ("thread", "process", "coroutine")

#: More than any job needs; the columns of a database can store twice as many.
MOST_ATTEMPTS = 1_000_000_000

#: A hundred years; a longer delay is a mistake.
LONGEST_DELAY = timedelta(days=36_525)


@dataclass(frozen=True)
class TaskOptions:
    """How jobs of a task run. The values are checked here, so that ``@task`` fails at import.

    Raises ConfigError for a value out of range. The name of a queue is checked less strictly than
    that of a new task (``queue_name.py``): rows of an earlier release are read by this class too.
    """

    priority: int = 0  #: -100..100, larger first
    queue_name: str = "default"  #: the queue; a worker may serve some queues only
    takes_context: bool = False  #: the first argument is a TaskContext
    max_attempts: int = 1  #: 1: no retry
    #: seconds before the second attempt, doubled for each further one, plus up to a quarter as
    #: jitter; or a callable that takes the number of the failed attempt (1 for the first) and
    #: returns seconds
    backoff: float | Callable[[int], float] = BACKOFF_SECONDS
    timeout: float | None = None  #: seconds that an attempt may take; None: no limit
    #: "thread", "process": where the whole attempt runs; "coroutine": a thread, for an `async def`
    #: function only. An executor gets only the call, and the attempt waits for it: the effects of
    #: the call are outside the job's transaction, and happen at least once
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
        if not (isinstance(self.executor, Executor) or self.executor in EXECUTORS):
            # only now: to look for a similar name takes longer than all the rest
            _expect(False, "executor", _executors_expected(self.executor), self.executor)
        # Members of an Enum, for example, are not accepted by every database driver.
        for name, plain in (("priority", int), ("max_attempts", int), ("queue_name", str.__str__)):
            object.__setattr__(self, name, plain(getattr(self, name)))

    def delay_seconds(self, attempt: int, jitter: float) -> float:
        """Return the seconds to wait after attempt number *attempt* (1 for the first) failed.

        jitter: 0 to 1, spreads jobs that failed together.
        Raises ConfigError if a ``backoff`` callable does not return seconds.
        """
        if callable(self.backoff):
            seconds = self.backoff(attempt)
            _expect(
                is_number(seconds) and seconds >= 0,
                "backoff",
                "seconds, at least 0, from the callable",
                seconds,
            )
        else:
            # The exponent is bounded: 2.0 ** 1024 raises OverflowError.
            seconds = self.backoff * 2.0 ** min(attempt - 1, 60) * (1 + jitter / 4)
        return min(float(seconds), LONGEST_BACKOFF_SECONDS)


def check_run_after(value: object) -> datetime | timedelta | None:
    """Return *value* if it can be a ``run_after``.

    value: an aware datetime, a timedelta of 0 to 36,525 days, or None.
    Raises ConfigError for anything else.
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
            f"run_after: expected a delay of at most {LONGEST_DELAY.days} days, or a datetime "
            f"before the year {MAXYEAR}, got {value!r}; give an earlier one"
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
    """One request to run a call: immutable, and small, because a hundred thousand may wait."""

    uid: JobId
    call: Call
    options: TaskOptions  #: shared by all jobs of a task
    run_after: datetime | timedelta | None = None  #: earliest start; a timedelta from the enqueue
    context: Mapping[str, Any] | None = None  #: what ``capture`` returned: user, language, ...


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
