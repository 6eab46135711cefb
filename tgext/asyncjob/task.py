"""``Task``, a declared function with its options.

Names and meanings are those of the Django 6 Tasks API where it has them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from types import FunctionType
from typing import Any, overload
from weakref import WeakValueDictionary

from .call import Arguments, Call, check, path_of
from .current import current_queue
from .errors import BadCall, ConfigError
from .policies import NO_POLICY, Keys, Policy
from .queue_name import check_queue_name
from .recurrence import Recurrence
from .sharing import user_of
from .task_options import TaskOptions, check_run_after
from .task_result import TaskResult

_OPTION_NAMES = [field.name for field in fields(TaskOptions)]

#: Those of a declared schedule: of the task, and not of its jobs.
_SCHEDULE_NAMES = [field.name for field in fields(Recurrence)]

#: Those that decide when a job may start beside others.
_POLICY_NAMES = [field.name for field in fields(Policy)]


#: Every Task with a schedule that was made, by its id. Whether one is at its path is looked up
#: there: to look through all modules of the process takes a thousand times as long.
_scheduled: WeakValueDictionary[int, Task] = WeakValueDictionary()


def _never(*args: Any, **kwargs: Any) -> None:
    """The default of ``func``, which needs one because the fields before it have defaults."""


@dataclass(frozen=True, eq=False)
class Task(TaskOptions):
    """A function with its options; made by ``@task``.

    Every option of ``@task`` is an attribute. Calling the task calls the function, without a job.
    """

    func: Callable[..., Any] = _never
    run_after: datetime | timedelta | None = None
    #: when a worker enqueues it by itself; None: never
    recurrence: Recurrence | None = None
    #: when its jobs may start beside each other; None: at any time
    policy: Policy | None = None

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
        if self.recurrence is not None:
            self._check_schedule()
            _scheduled[id(self)] = self

    def _check_schedule(self) -> None:
        if type(self.func) is not FunctionType or "<" in self.func.__qualname__:
            raise ConfigError(
                f"@task with cron or every: expected a module-level function, got {self.name}, "
                "which a worker cannot find by its name; move it to the module"
            )
        try:
            check(self.func, (), {}, implied=int(self.takes_context))
        except BadCall as error:
            raise ConfigError(
                "@task with cron or every: expected a function that can be called without "
                f"arguments; use JobQueue.schedule() to give some: {error}"
            ) from None

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

        options: those of ``@task`` that a job has, and ``run_after``, the earliest start of a job:
        an aware datetime, or a timedelta from the enqueue; None: as soon as a worker is free. A
        copy has no schedule.
        Raises ConfigError for an unknown option or a value out of range.
        """
        _refuse_unknown(options, [*_OPTION_NAMES, *_POLICY_NAMES, "run_after"], "Task.using")
        policy = _policy_of(options, self.policy)
        return replace(self, recurrence=None, policy=policy, **options)

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

    def enqueue_many(self, calls: Iterable[Arguments], /) -> list[TaskResult]:
        """Enqueue many jobs on the current queue, all or none, and return them in their order.

        calls: the arguments of each: a tuple of positional ones, a dict of keywords, or a ``Call``.
        Raises as ``enqueue`` does; BadCall and NotSerializable say which call they are of.
        """
        return current_queue().enqueue_many(self, calls)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By its path, as a function is pickled: the path of a function with @task is the Task's.
        held = held_at(self.func)
        if held is self:
            return str(self.func.__qualname__)
        found = isinstance(held, Task) and held.func is self.func
        options = {name: getattr(self, name) for name in [*_OPTION_NAMES, "run_after"]}
        if not (found and held.policy == self.policy):  # its callables may have no path
            options["policy"] = self.policy
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


def scheduled_tasks() -> list[Task]:
    """Return the tasks with a schedule that this process has at their paths."""
    # a list: another thread may import one meanwhile
    made = [found() for found in _scheduled.valuerefs()]
    return [each for each in made if each is not None and held_at(each.func) is each]


def _made(held: Any, options: dict[str, Any]) -> Task:
    """Unpickle the copy of a Task with other options, or a Task that has no path."""
    if not isinstance(held, Task):
        return Task(func=held, **options)
    return Task(func=held.func, **{"policy": held.policy, **options})


def keys_for(call: Call, options: TaskOptions, context: Any = None) -> Keys | None:
    """Return what a job must be admitted by; None: nothing. options: of the job, a Task if it is of
    one. context: of the job. Raises BadCall if a key cannot be made of the arguments."""
    policy = options.policy if isinstance(options, Task) else None
    if policy is None:
        return None
    implied, user = int(options.takes_context), user_of(context)
    return policy.keys(call, implied, options.queue_name, options.priority, user)


def _policy_of(options: dict[str, Any], policy: Policy | None) -> Policy | None:
    """Take the options of a policy out of *options*, and change *policy* by them."""
    changed = {name: options.pop(name) for name in _POLICY_NAMES if name in options}
    policy = (policy or NO_POLICY).using(**changed)
    return None if policy == NO_POLICY else policy


@overload
def task(func: Callable[..., Any], /) -> Task: ...
@overload
def task(**options: Any) -> Callable[[Callable[..., Any]], Task]: ...
def task(func: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Declare a module-level function as a Task: ``@task`` or ``@task(priority=10, ...)``.

    options: any of priority, queue_name, takes_context, max_attempts, backoff, timeout, retry_on,
    give_up_on, executor; for limits, turns and unique jobs also limit, limit_key, rate, rate_key,
    share_key, unique, unique_key, coalesce: see ``Policy``; for a schedule also cron or every,
    timezone, catch_up: see ``Recurrence``.
    Raises ConfigError at import for an unknown option or a value out of range, and BadCall for
    something that cannot be called.
    """
    _refuse_unknown(options, [*_OPTION_NAMES, *_POLICY_NAMES, *_SCHEDULE_NAMES], "@task")
    options["policy"] = _policy_of(options, None)
    of_schedule = {name: options.pop(name) for name in _SCHEDULE_NAMES if name in options}
    if of_schedule:
        options["recurrence"] = Recurrence(**of_schedule)
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
