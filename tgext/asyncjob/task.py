"""Task, a declared function, and TaskResult, one request to run it: two tasks, three jobs.

Names and meanings are those of the Django 6 Tasks API where it has them. A
``TaskResult`` reads its job again only in ``refresh`` and ``wait``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, overload

from .call import Call, path_of, why_not_kept
from .current import current_queue
from .errors import BadCall, ConfigError, NotSerializable
from .job import (
    Progress,
    Snapshot,
    TaskError,
    TaskOptions,
    TaskResultStatus,
    check_run_after,
)
from .json_form import json_form
from .queue_name import check_queue_name

if TYPE_CHECKING:
    from .results import Results

_OPTION_NAMES = [field.name for field in fields(TaskOptions)]


def _never(*args: Any, **kwargs: Any) -> None:
    """The default of a field that has to have one because those before it have."""


@dataclass(frozen=True, eq=False)
class Task(TaskOptions):
    """A function and how to run it in the background; made by ``@task``.

    Every option of ``@task`` is an attribute. Calling it calls the function, here and now.
    """

    func: Callable[..., Any] = _never
    run_after: datetime | timedelta | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.func, Task):  # the same function with other options
            vars(self)["func"] = self.func.func
        if not callable(self.func):
            raise BadCall(f"@task: expected a function to decorate, got {self.func!r}")
        check_queue_name(self.queue_name)
        check_run_after(self.run_after)
        self._check_executor()
        # What functools.update_wrapper does, which a frozen dataclass refuses; no option shares
        # a name with these.
        for name in functools.WRAPPER_ASSIGNMENTS:
            vars(self)[name] = getattr(self.func, name, None)
        vars(self)["__wrapped__"] = self.func

    def _check_executor(self) -> None:
        if self.executor == "coroutine" and not inspect.iscoroutinefunction(self.func):
            raise ConfigError(
                f'executor: "coroutine" expected an `async def` function, got {self.name}; leave '
                'the option out, or say "process" for work that keeps a core busy'
            )
        is_named = type(self.func) is not FunctionType or "<" not in self.func.__qualname__
        if self.executor == "process" and not is_named:
            raise ConfigError(
                f'executor: "process" expected a module-level function, got {self.name}, which the '
                "process cannot find by its name; move it to the module, or run it in a thread"
            )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    @property
    def name(self) -> str:
        """The dotted path of the function."""
        return path_of(self.func)

    def using(self, /, **options: Any) -> Task:
        """Return a copy with other options; ``run_after`` too.

        run_after: an aware datetime, or a timedelta that counts from the enqueue.
        Raises ConfigError for an unknown option or a value out of range.
        """
        _refuse_unknown(options, [*_OPTION_NAMES, "run_after"], "Task.using")
        return replace(self, **options)

    def enqueue(self, /, *args: Any, **kwargs: Any) -> TaskResult:
        """Ask the current queue to run the function with these arguments.

        Inside a managed transaction the job begins to exist with its commit.
        Raises BadCall if the arguments do not fit, NotSerializable if one of them cannot be
        kept, QueueFull, and ConfigError where no queue is current.
        """
        call = Call(self.func, args, kwargs or None)
        return current_queue().enqueue(call, self, self.run_after)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By its path, as a function is pickled: where @task stands above one, its path leads here.
        held = held_at(self.func)
        if held is self:
            return str(self.func.__qualname__)
        found = isinstance(held, Task) and held.func is self.func
        options = {name: getattr(self, name) for name in [*_OPTION_NAMES, "run_after"]}
        return _made, (held if found else self.func, options)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def held_at(func: Callable[..., Any]) -> Any:
    """Return what the path of *func* leads to in this process; None: nothing, or no path."""
    try:
        path = func.__qualname__.split(".")
        return functools.reduce(getattr, path, sys.modules[func.__module__])
    except (AttributeError, KeyError):
        return None


def _made(held: Any, options: dict[str, Any]) -> Task:
    """Unpickle the copy of a Task with other options, or a Task that has no path."""
    return Task(func=held.func if isinstance(held, Task) else held, **options)


@overload
def task(func: Callable[..., Any], /) -> Task: ...
@overload
def task(**options: Any) -> Callable[[Callable[..., Any]], Task]: ...
def task(func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Declare a module-level function as a Task: ``@task`` or ``@task(priority=10, ...)``.

    Options: those of TaskOptions. executor: "thread", or "process" to run each attempt, with its
    session and its commit, in a process of its own; an executor is given the bare call: what that
    does is outside the job's transaction, and happens at least once.
    Raises ConfigError at import for an unknown option or a value out of range.
    """
    _refuse_unknown(options, _OPTION_NAMES, "@task")
    if func is not None:
        return Task(func=func, **options)
    return lambda function: Task(func=function, **options)


def _refuse_unknown(options: dict[str, Any], known: list[str], where: str) -> None:
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{where}: unknown option {name}; {hint}")


@dataclass(frozen=True)
class TaskContext:
    """The first argument of a task that ``takes_context``."""

    task_result: TaskResult
    attempt: int  #: 1 for the first


class TaskResult:
    """One job, as it stood when it was last read: at the enqueue, or by ``refresh``.

    Instants are aware UTC, or None while they have not happened.
    """

    __slots__ = ("_results", "_snapshot")

    def __init__(self, results: Results, snapshot: Snapshot) -> None:
        self._results = results
        self._snapshot = snapshot

    @property
    def id(self) -> str:
        """The uid."""
        return self._snapshot.job.uid

    @property
    def name(self) -> str:
        """The dotted path of what was called."""
        return self._snapshot.job.call.name

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return self._snapshot.job.call.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments; a copy."""
        return dict(self._snapshot.job.call.kwargs or {})

    @property
    def status(self) -> TaskResultStatus:
        """READY, RUNNING, SUCCESSFUL, FAILED or CANCELLED."""
        return self._snapshot.status

    @property
    def is_finished(self) -> bool:
        """Whether it ended, however it ended."""
        return self._snapshot.status.is_final

    @property
    def enqueued_at(self) -> datetime:
        """When it was enqueued."""
        return self._snapshot.enqueued_at

    @property
    def started_at(self) -> datetime | None:
        """When its first attempt began."""
        return self._snapshot.started_at

    @property
    def last_attempted_at(self) -> datetime | None:
        """When its last attempt began."""
        return self._snapshot.last_attempted_at

    @property
    def finished_at(self) -> datetime | None:
        """When it ended."""
        return self._snapshot.finished_at

    @property
    def attempts(self) -> int:
        """How many attempts were begun, all budgets together."""
        return self._snapshot.attempts

    @property
    def errors(self) -> list[TaskError]:
        """One for each attempt that raised, timed out or lost its worker, oldest first."""
        return list(self._snapshot.errors)

    @property
    def progress(self) -> Progress:
        """The last report, ``(value, data, total)``; ``(-1, None, None)`` before the first."""
        return self._snapshot.progress

    @property
    def log(self) -> list[str]:
        """The last 100 log lines of its last attempt that ended."""
        return list(self._snapshot.log)

    @property
    def enqueued_by(self) -> str | None:
        """Who was logged in where it was enqueued; None: nobody, or not in a request."""
        context = self._snapshot.job.context
        return None if context is None else context.get("user")

    @property
    def return_value(self) -> Any:
        """What the function returned.

        Raises ValueError until the job is SUCCESSFUL, NotSerializable for a value that could
        not be kept.
        """
        status = self.status
        if status is not TaskResultStatus.SUCCESSFUL:
            raise ValueError(f"job {self.id!r} has no return value: it is {status}")
        value = self._snapshot.result
        if isinstance(value, NotKept):
            raise NotSerializable(f"the return value of job {self.id!r} was not kept: {value.why}")
        return value

    def refresh(self) -> None:
        """Read the job again. Raises UnknownJob if it has been removed since."""
        self._snapshot = self._results.snapshot(self.id)

    def wait(self, timeout: float | None = None) -> TaskResult:
        """Wait until the job has ended, and return this result, refreshed.

        timeout: seconds; None: as long as it takes.
        Raises TimeoutError, NotCommitted if the calling transaction enqueued the job itself
        and has not committed, UnknownJob.
        """
        self._snapshot = self._results.wait_for_end(self.id, timeout)
        return self

    def cancel(self) -> bool:
        """Take the job back: a waiting one at once, a running one at its next checkpoint.

        Returns True unless it had ended. Does not refresh. Raises UnknownJob.
        """
        return self._results.cancel(self.id)

    def retry(self) -> bool:
        """Enqueue an ended job again, with a fresh budget of attempts and its history kept.

        Returns True if it had ended. Does not refresh. Raises UnknownJob.
        """
        return self._results.retry(self.id)

    def __json__(self) -> dict[str, Any]:
        """What a page needs, for ``@expose('json')``: never arguments, never a traceback.

        Reported data of any kind has a form here that JSON holds (``json_form``).
        """
        error = self._snapshot.errors[-1] if self._snapshot.errors else None
        found = {
            "id": self.id,
            "name": self.name,
            "status": self.status.value,
            "progress": self.progress._asdict(),
            "error": error and {"class": error.exception_class_path, "message": error.message},
            "enqueued_at": self.enqueued_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
        }
        return {name: json_form(value) for name, value in found.items()}

    def __repr__(self) -> str:
        return f"<TaskResult {self.id} {self.name} {self.status}>"


@dataclass(frozen=True, slots=True)
class NotKept:
    """Stands where a return value would, had it been one that can be kept."""

    why: str


def kept(result: Any) -> Any:
    """Return *result*, or a NotKept if it cannot outlive the attempt."""
    why = why_not_kept(result)
    return result if why is None else NotKept(why)
