"""``Task``, a declared function, and ``TaskResult``, one job.

Names and meanings are those of the Django 6 Tasks API where it has them. A ``TaskResult`` reads its
job again only in ``refresh`` and ``wait``.
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
    """The default of ``func``, which needs one because the fields before it have defaults."""


@dataclass(frozen=True, eq=False)
class Task(TaskOptions):
    """A function with its options; made by ``@task``.

    Every option of ``@task`` is an attribute. Calling the task calls the function, without a job.
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
        # As functools.update_wrapper, which cannot set attributes of a frozen dataclass; no option
        # has one of these names.
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
        """Return a copy of the task with other options.

        options: those of ``@task``, and ``run_after``, the earliest start of a job: an aware
        datetime, or a timedelta from the enqueue; None: as soon as a worker is free.
        Raises ConfigError for an unknown option or a value out of range.
        """
        _refuse_unknown(options, [*_OPTION_NAMES, "run_after"], "Task.using")
        return replace(self, **options)

    def enqueue(self, /, *args: Any, **kwargs: Any) -> TaskResult:
        """Enqueue a job on the current queue that calls the function with these arguments.

        Inside a request, or any other managed transaction, the commit creates the job. If the
        transaction is aborted, the job never exists.
        Raises BadCall if the arguments do not fit, NotSerializable if one of them cannot be
        stored, QueueFull if ``max_queued`` jobs wait, QueueClosed after ``close()``, and
        ConfigError if there is no current queue.
        """
        call = Call(self.func, args, kwargs or None)
        return current_queue().enqueue(call, self, self.run_after)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By its path, as a function is pickled: the path of a function with @task is the Task's.
        held = held_at(self.func)
        if held is self:
            return str(self.func.__qualname__)
        found = isinstance(held, Task) and held.func is self.func
        options = {name: getattr(self, name) for name in [*_OPTION_NAMES, "run_after"]}
        return _made, (held if found else self.func, options)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def held_at(func: Callable[..., Any]) -> Any:
    """Return the object at the path of *func* in this process; None if there is none."""
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

    options: any of priority, queue_name, takes_context, max_attempts, backoff, timeout, executor.
    Raises ConfigError at import for an unknown option or a value out of range, and BadCall for
    something that cannot be called.
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

    task_result: TaskResult  #: the running job
    attempt: int  #: 1 for the first


class TaskResult:
    """One job, in the state in which it was last read: by ``enqueue``, ``refresh`` or ``wait``.

    Instants are aware datetimes in UTC; None as long as the event has not happened.
    """

    __slots__ = ("_results", "_snapshot")

    def __init__(self, results: Results, snapshot: Snapshot) -> None:
        self._results = results
        self._snapshot = snapshot

    @property
    def id(self) -> str:
        """The uid of the job."""
        return self._snapshot.job.uid

    @property
    def name(self) -> str:
        """The dotted path of the function that the job calls."""
        return self._snapshot.job.call.name

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments.

        On ``sql`` they are read from the row at the first access. That raises BadSignature or
        another AsyncJobError if the stored call cannot be read in this process.
        """
        return self._snapshot.job.call.args

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, as a new dict; see ``args``."""
        return dict(self._snapshot.job.call.kwargs or {})

    @property
    def status(self) -> TaskResultStatus:
        """READY, RUNNING, SUCCESSFUL, FAILED or CANCELLED; also a str."""
        return self._snapshot.status

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended: SUCCESSFUL, FAILED or CANCELLED."""
        return self._snapshot.status.is_final

    @property
    def enqueued_at(self) -> datetime:
        """When the job was enqueued."""
        return self._snapshot.enqueued_at

    @property
    def started_at(self) -> datetime | None:
        """When the first attempt began."""
        return self._snapshot.started_at

    @property
    def last_attempted_at(self) -> datetime | None:
        """When the last attempt began."""
        return self._snapshot.last_attempted_at

    @property
    def finished_at(self) -> datetime | None:
        """When the job ended."""
        return self._snapshot.finished_at

    @property
    def attempts(self) -> int:
        """How many attempts have begun, including those before a ``retry()``."""
        return self._snapshot.attempts

    @property
    def errors(self) -> list[TaskError]:
        """A TaskError for each attempt that raised or timed out, or whose worker died; oldest
        first."""
        return list(self._snapshot.errors)

    @property
    def progress(self) -> Progress:
        """The last report, ``(value, data, total)``; ``(-1, None, None)`` before the first one."""
        return self._snapshot.progress

    @property
    def log(self) -> list[str]:
        """The last 100 log lines of the last attempt that has ended."""
        return list(self._snapshot.log)

    @property
    def enqueued_by(self) -> str | None:
        """The user who was logged in when the job was enqueued; None if there was none, or no
        request."""
        context = self._snapshot.job.context
        return None if context is None else context.get("user")

    @property
    def return_value(self) -> Any:
        """The return value of the function.

        Raises ValueError unless the job is SUCCESSFUL, and NotSerializable if the value could not
        be stored.
        """
        status = self.status
        if status is not TaskResultStatus.SUCCESSFUL:
            raise ValueError(f"job {self.id!r} has no return value: it is {status}")
        value = self._snapshot.result
        if isinstance(value, NotKept):
            raise NotSerializable(f"the return value of job {self.id!r} was not kept: {value.why}")
        return value

    def refresh(self) -> None:
        """Read the job again. Raises UnknownJob if it was removed meanwhile."""
        self._snapshot = self._results.snapshot(self.id)

    def wait(self, timeout: float | None = None) -> TaskResult:
        """Wait until the job has ended, and return this TaskResult, refreshed.

        timeout: seconds; None: no limit.
        Raises TimeoutError if the job has not ended by then, NotCommitted if the transaction of
        this thread has enqueued the job and is not committed, BadCall for a timeout that is not a
        number, and UnknownJob if the job was removed meanwhile.
        """
        self._snapshot = self._results.wait_for_end(self.id, timeout)
        return self

    def cancel(self) -> bool:
        """Cancel the job: a waiting one at once, a running one at its next checkpoint.

        Returns False if it has ended, or is just being committed. Does not refresh this TaskResult.
        Raises UnknownJob if the job was removed meanwhile.
        """
        return self._results.cancel(self.id)

    def retry(self) -> bool:
        """Enqueue an ended job again, with a new budget of attempts; its errors are kept.

        Returns False if it has not ended. Does not refresh this TaskResult.
        Raises UnknownJob if the job was removed meanwhile.
        """
        return self._results.retry(self.id)

    def __json__(self) -> dict[str, Any]:
        """Return what a page needs, for ``@expose('json')``; neither arguments nor a traceback.

        Keys: ``id``, ``name``, ``status``, ``progress``, ``error``, ``enqueued_at``,
        ``started_at``, ``finished_at``. All values are such that JSON can represent them.
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
    """Stands for a return value that could not be kept."""

    why: str  #: the reason


def kept(result: Any) -> Any:
    """Return *result*, or a NotKept if it cannot be used after the attempt."""
    why = why_not_kept(result)
    return result if why is None else NotKept(why)
