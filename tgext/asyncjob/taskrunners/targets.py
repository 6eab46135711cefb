"""The names of the kinds of runners, and the decorator that takes one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..call import path_of
from ..errors import ConfigError
from .coroutines import CoroutineTaskrunner
from .runners import MultiprocessTaskrunner, Taskrunner, ThreadTaskrunner
from .stored import StoreTaskWriter

Target = str | type[Taskrunner]

TARGETS: dict[str, type[Taskrunner]] = {
    "thread": ThreadTaskrunner,
    "process": MultiprocessTaskrunner,
    "coroutine": CoroutineTaskrunner,
    "store": StoreTaskWriter,
    "sync": Taskrunner,
}


def runner_class(target: Any) -> type[Taskrunner]:
    """Return the class of runner that *target* names or is. Raises ConfigError for others."""
    if isinstance(target, str) and target in TARGETS:
        return TARGETS[target]
    if isinstance(target, type) and issubclass(target, Taskrunner):
        return target
    shown = repr(target) if isinstance(target, str) else f"an instance of {path_of(type(target))}"
    hint = "; write @as_task(), with parentheses" if callable(target) else ""
    raise ConfigError(
        f"expected as target one of {', '.join(TARGETS)} or a subclass of Taskrunner, got "
        f"{shown}{hint}"
    )


def as_task(
    target: Target = "thread", **options: Any
) -> Callable[[Callable[..., Any]], Taskrunner]:
    """Return a decorator that replaces a function by a runner of it, of the kind *target*.

    options: those of the runner (``on_iter``, ``on_end``, ``on_error``, ``store`` ...); others are
    passed to the function at each call.
    Raises ConfigError for another target.
    """
    make = runner_class(target)

    def decorate(func: Callable[..., Any]) -> Taskrunner:
        runner = make(func, **options)
        functools.update_wrapper(runner, func)
        return runner

    return decorate
