"""A call that was recorded step by step: attributes, calls, items and slices of one object.

A chain is never changed: each step gives a new one. It is a plain callable without arguments,
so any executor takes it, and it can be pickled where its object and its arguments can; a module
is an object too. Knows nothing of who records it, nor of where it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..call import path_of

#: What is done, and with what; plain tuples, so that they can be stored as JSON where the
#: arguments can: ("get", name), ("call", args, kwargs), ("item", key), ("slice", 1, 5, None).
Step = tuple[Any, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """An object, and what is to be done to it, in order."""

    base: Any
    steps: tuple[Step, ...] = ()

    def get(self, name: str) -> Chain:
        """Return the chain that then takes an attribute."""
        return self._then("get", name)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Chain:
        """Return the chain that then calls what it has come to."""
        return self._then("call", args, kwargs)

    def item(self, key: Any) -> Chain:
        """Return the chain that then takes an item, or a slice."""
        if type(key) is slice:  # which JSON does not have
            return self._then("slice", key.start, key.stop, key.step)
        return self._then("item", key)

    def _then(self, *step: Any) -> Chain:
        return Chain(self.base, (*self.steps, step))

    def __call__(self) -> Any:
        """Do what was recorded and return what comes of it; raises what that raises."""
        return replay(self.base, self.steps)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that are taken before anything else happens."""
        names = []
        for kind, *rest in self.steps:
            if kind != "get":
                break
            names.append(rest[0])
        return tuple(names)

    def __repr__(self) -> str:
        # Nothing of the object or the arguments: they may be secret, or ask a database.
        return name_of(self.base) + "".join(_SHOWN[kind](*rest) for kind, *rest in self.steps)

    def __reduce__(self) -> tuple[Callable[..., Chain], tuple[Any, ...]]:
        if isinstance(self.base, ModuleType):  # which pickle refuses
            return _of_module, (self.base.__name__, self.steps)
        return Chain, (self.base, self.steps)


def name_of(base: object) -> str:
    """Return the dotted path of a module, function, class or method; else of its class."""
    return base.__name__ if isinstance(base, ModuleType) else path_of(base)


def replay(base: Any, steps: tuple[Step, ...]) -> Any:
    """Do to *base* what was recorded, and return what comes of it; raises what that raises."""
    found = base
    for kind, *rest in steps:
        found = _DO[kind](found, *rest)
    return found


def get(found: Any, name: str) -> Any:
    """Return an attribute.

    Raises AttributeError for one with two underscores before and after its name: no chain that
    was recorded has such a step, and they lead from any function to everything.
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
