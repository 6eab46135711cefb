"""How the jobs of a task run: its options, checked when they are declared."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta, timezone
from typing import Any

from .amount import is_int, is_number
from .errors import ConfigError

#: The second attempt begins after 2 s, which a brief fault may take, the next ones after 4, 8, ...
#: up to a day. A day is also the bound for a backoff of the task's own.
BACKOFF_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 86_400.0


#: The priorities; a list of jobs looks for each of them.
LEAST_PRIORITY, MOST_PRIORITY = -100, 100

#: Where an attempt may run, by name: in a thread of the worker, in a process of its own, or in a
#: thread of the worker, for a coroutine function only.
EXECUTORS = ("thread", "process", "coroutine")

#: More than any job needs; the columns of a database can store twice as many.
MOST_ATTEMPTS = 1_000_000_000

#: A hundred years; a longer delay is a mistake.
LONGEST_DELAY = timedelta(days=36_525)


#: One class of exceptions, or several.
ErrorClasses = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True)
class TaskOptions:
    """How jobs of a task run. The values are checked here, so that ``@task`` fails at import.

    Raises ConfigError for a value out of range. The name of a queue is checked less strictly than
    that of a new task (``queue_name.py``): rows of an earlier release are read by this class too.
    """

    priority: int = 0  #: LEAST_PRIORITY to MOST_PRIORITY, larger first
    queue_name: str = "default"  #: the queue; a worker may serve some queues only
    takes_context: bool = False  #: the first argument is a TaskContext
    max_attempts: int = 1  #: 1: no retry
    #: seconds before the second attempt, doubled for each further one, plus up to a quarter as
    #: jitter; or a callable that takes the number of the failed attempt (1 for the first) and
    #: returns seconds
    backoff: float | Callable[[int], float] = BACKOFF_SECONDS
    timeout: float | None = None  #: seconds that an attempt may take; None: no limit
    #: classes of the errors that are worth another attempt, one or a tuple; None: all are
    retry_on: ErrorClasses | None = None
    #: classes of errors after which no further attempt follows; they win over ``retry_on``
    give_up_on: ErrorClasses = ()
    #: "thread", "process": where the whole attempt runs; "coroutine": a thread, for an `async def`
    #: function only. An executor gets only the call, and the attempt waits for it: the effects of
    #: the call are outside the job's transaction, and happen at least once
    executor: str | Executor = "thread"

    def __post_init__(self) -> None:
        _expect(
            is_int(self.priority) and LEAST_PRIORITY <= self.priority <= MOST_PRIORITY,
            "priority", f"a whole number from {LEAST_PRIORITY} to {MOST_PRIORITY}, larger first",
            self.priority,
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
        for name in ("retry_on", "give_up_on"):
            object.__setattr__(self, name, _classes(name, getattr(self, name)))
        if not (isinstance(self.executor, Executor) or self.executor in EXECUTORS):
            # only now: to look for a similar name takes longer than all the rest
            _expect(False, "executor", _executors_expected(self.executor), self.executor)
        # Members of an Enum, for example, are not accepted by every database driver.
        for name, plain in (("priority", int), ("max_attempts", int), ("queue_name", str.__str__)):
            object.__setattr__(self, name, plain(getattr(self, name)))

    def is_worth_a_retry(self, error: BaseException) -> bool:
        """Whether another attempt may follow one that raised *error*."""
        classes: Any = self.give_up_on
        if isinstance(error, classes):
            return False
        classes = self.retry_on
        return classes is None or isinstance(error, classes)

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


def _classes(name: str, given: Any) -> tuple[type[BaseException], ...] | None:
    """Return one or several classes of exceptions as a tuple; the same one for a tuple."""
    if given is None and name == "retry_on":
        return None
    classes = given if isinstance(given, tuple) else (given,)
    are_errors = all(isinstance(each, type) and issubclass(each, BaseException) for each in classes)
    _expect(are_errors, name, "a class of exceptions, or a tuple of them", given)
    return classes


def _executors_expected(got: object) -> str:
    names = ", ".join(f'"{name}"' for name in EXECUTORS)
    near = difflib.get_close_matches(got, EXECUTORS, 1) if isinstance(got, str) else ()
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    return f"{names} or a concurrent.futures.Executor{hint}"


def _expect(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"{name}: expected {expected}, got {got!r}")


DEFAULT_OPTIONS = TaskOptions()
