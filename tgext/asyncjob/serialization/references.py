"""Finds an object by its dotted path, and the path of an object.

A path is ``module:qualified.name``. An object has a path only if the same object is found by it.
Writing a path imports nothing; reading one imports its module.
"""

from __future__ import annotations

import importlib
import sys
from types import FunctionType, ModuleType
from typing import Any

from ..call import path_of
from ..errors import CallableMissing, ModuleMissing
from ..task import Task

#: The names of the started script's module, in its process and in a child of multiprocessing.
_MAINS = frozenset({"__main__", "__mp_main__"})


class Unserializable(Exception):
    """Raised inside this package for a value that cannot be stored; its message is the reason."""


def path_to(thing: Any) -> str | None:
    """Return the path of an object; None if it has none.

    The path of a Task's function is that of the Task.
    Raises Unserializable for an object of a script, which no other process can import.
    """
    module_name, names = _whereabouts(thing)
    if type(module_name) is not str or type(names) is not str:
        return None
    try:
        found = _walk(sys.modules[module_name], names)
    except (KeyError, AttributeError):
        return None
    if found is not thing and not _is_same(found, thing):
        return None
    return f"{importable(module_name, thing)}:{names}"


def _whereabouts(thing: Any) -> tuple[Any, Any]:
    if type(thing) is not FunctionType and not isinstance(thing, type):
        # A class method names the class that defines it, not the one that it is bound to; methods
        # of built-in classes have no __module__.
        for owner in (getattr(thing, "__self__", None), getattr(thing, "__objclass__", None)):
            if isinstance(owner, type):
                name = getattr(thing, "__name__", None)
                return owner.__module__, f"{owner.__qualname__}.{name}"
    return getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)


def _walk(found: Any, names: str) -> Any:
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _is_same(found: Any, thing: Any) -> bool:
    if isinstance(found, Task):
        return found.func is thing
    # Each access makes a new bound method: it is the same if it is bound to the same class.
    owner = getattr(thing, "__self__", None)
    return (
        isinstance(owner, type)
        and type(found) is type(thing)
        and found.__self__ is owner
        and bool(found == thing)
    )


def importable(module_name: str, thing: Any) -> str:
    """Return the name under which another process can import the module of *thing*.

    For ``python -m package.module`` the name is in the module's spec. Raises Unserializable for a
    script, which has none.
    """
    if module_name not in _MAINS:
        return module_name
    name = _name_of_main()
    if name is None:
        raise Unserializable(
            f"{path_of(thing)} is defined in the script that was started (__main__), and a worker "
            "process has another __main__: move it to a module that both import, or start the "
            "program by `python -m package.module`"
        )
    return name


def _name_of_main() -> str | None:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return None if spec is None or spec.name in _MAINS else spec.name


def module_named(name: str, path: str) -> ModuleType:
    """Import a module. path: that of the wanted object, for the message.

    Raises ModuleMissing if there is no such module, CallableMissing if its import fails.
    """
    if name not in sys.modules and name == _name_of_main():  # else it would be imported twice
        return sys.modules["__main__"]
    try:
        # Not from sys.modules: another thread may not have finished importing it.
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ModuleMissing(name, missing) from None
        raise CallableMissing(path, f"its module cannot be imported: {error}") from error
    except Exception as error:  # a module may raise anything
        why = f"{type(error).__name__}: {error}"
        raise CallableMissing(path, f"its module cannot be imported: {why}") from error


def find(path: str) -> Any:
    """Import the object at a path; for a Task return its function.

    Raises ModuleMissing and CallableMissing.
    """
    found = find_itself(path)
    return found.func if isinstance(found, Task) else found


def find_itself(path: str) -> Any:
    """Import the object at a path, also a Task. Raises ModuleMissing and CallableMissing."""
    module_name, _, names = path.partition(":")
    module = module_named(module_name, path)
    try:
        return _walk(module, names)
    except AttributeError as error:
        raise CallableMissing(path, f"it is no longer there ({error})") from None


def find_class(path: str, kind: str) -> type[Any]:
    """Import a class. kind: which kind of class is expected, for the message.

    Raises ModuleMissing, and CallableMissing if the object is not a class.
    """
    found = find_itself(path)
    if not isinstance(found, type):
        raise CallableMissing(path, f"it is not a class ({kind}) but a {type(found).__name__}")
    return found
