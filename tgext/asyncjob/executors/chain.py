"""A recorded sequence of steps on one object: attributes, calls, items and slices.

A chain is immutable: each step returns a new one. It is a callable without arguments, so any
executor takes it. It can be pickled if its object and its arguments can; the object may also be a
module.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..call import path_of

#: The kind of a step, and its values; a plain tuple, which is JSON if the arguments are:
#: ("get", name), ("call", args, kwargs), ("item", key), ("slice", 1, 5, None).
Step = tuple[Any, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """An object, and the steps to be done on it, in order."""

    base: Any
    steps: tuple[Step, ...] = ()

    def get(self, name: str) -> Chain:
        """Return this chain with one more step: take an attribute."""
        return self._then("get", name)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Chain:
        """Return this chain with one more step: call the value so far."""
        return self._then("call", args, kwargs)

    def item(self, key: Any) -> Chain:
        """Return this chain with one more step: take an item, or a slice."""
        if type(key) is slice:  # JSON has no slices
            return self._then("slice", key.start, key.stop, key.step)
        return self._then("item", key)

    def _then(self, *step: Any) -> Chain:
        return Chain(self.base, (*self.steps, step))

    def __call__(self) -> Any:
        """Do the steps and return the last value; raises what they raise."""
        return replay(self.base, self.steps)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes that are taken before the first other step."""
        names = []
        for kind, *rest in self.steps:
            if kind != "get":
                break
            names.append(rest[0])
        return tuple(names)

    def __repr__(self) -> str:
        # Without the repr of the object and the arguments: it may be secret, or query a database.
        return name_of(self.base) + "".join(_SHOWN[kind](*rest) for kind, *rest in self.steps)

    def __reduce__(self) -> tuple[Callable[..., Chain], tuple[Any, ...]]:
        if isinstance(self.base, ModuleType):  # pickle refuses modules
            return _of_module, (self.base.__name__, self.steps)
        return Chain, (self.base, self.steps)


def name_of(base: object) -> str:
    """Return the dotted path of a module, function, class or method; else that of its class."""
    return base.__name__ if isinstance(base, ModuleType) else path_of(base)


def replay(base: Any, steps: tuple[Step, ...]) -> Any:
    """Do *steps* on *base*, and return the last value; raises what they raise."""
    found = base
    for kind, *rest in steps:
        found = _DO[kind](found, *rest)
    return found


def get(found: Any, name: str) -> Any:
    """Return an attribute.

    Raises AttributeError for a name with two underscores before and after it. No chain records
    such a step, and ``__globals__`` of any function would give access to everything.
    """
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(
            f"expected the name of a plain attribute, got {name!r}, which a chain never takes"
        )
    return getattr(found, name)


_DO: dict[str, Callable[..., Any]] = {
    "get": get,
    "call": lambda found, args, kwargs: found(*args, **kwargs),
    "item": lambda found, key: found[key],
    "slice": lambda found, *ends: found[slice(*ends)],
}


_SHOWN: dict[str, Callable[..., str]] = {
    "get": lambda name: f".{name}",
    "call": lambda args, kwargs: "(...)" if args or kwargs else "()",
    "item": lambda key: "[...]",
    "slice": lambda *ends: "[...]",
}


def _of_module(name: str, steps: tuple[Step, ...]) -> Chain:
    return Chain(importlib.import_module(name), steps)
