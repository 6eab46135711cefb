"""Find a module-level thing by its dotted path, and the path of a thing.

A path is ``module:qualified.name``. It is given only to what it leads back to: the very same
object. Nothing is imported to write a path; reading one imports its module.
"""

from __future__ import annotations

import importlib
import sys
from types import FunctionType, ModuleType
from typing import Any

from ..call import path_of
from ..errors import CallableMissing, ModuleMissing
from ..task import Task

#: What the program's own file is called, in itself and in a child that multiprocessing spawns.
_MAINS = frozenset({"__main__", "__mp_main__"})


class Unserializable(Exception):
    """Raised inside this package for a value that cannot be stored; its text says why."""


def path_to(thing: Any) -> str | None:
    """Return the path of *thing*, or None if there is none that leads back to it.

    For the function of a Task the path leads to the Task.
    Raises Unserializable for what belongs to a script, which no other process can import.
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
        # A class method says where it was defined, not on which class it was asked for; the
        # methods of built-in classes do not say their module.
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
    # Every look makes a new bound method: the same one if it is bound to the same class.
    owner = getattr(thing, "__self__", None)
    return (
        isinstance(owner, type)
        and type(found) is type(thing)
        and found.__self__ is owner
        and bool(found == thing)
    )


def importable(module_name: str, thing: Any) -> str:
    """Return the name under which another process imports the module of *thing*.

    That of ``python -m package.module`` is in its spec. A script has none: raises Unserializable.
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
    """Import a module; *path*: what is wanted of it, for the message.

    Raises ModuleMissing if it is not here, CallableMissing if it is and cannot be imported.
    """
    if name not in sys.modules and name == _name_of_main():  # else it would be there twice
        return sys.modules["__main__"]
    try:
        # Not from sys.modules: another thread may be in the middle of importing it.
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
    """Import what a path leads to; the function, where that is a Task.

    Raises ModuleMissing and CallableMissing.
    """
    found = find_itself(path)
    return found.func if isinstance(found, Task) else found


def find_itself(path: str) -> Any:
    """Import what a path leads to, a Task too. Raises ModuleMissing and CallableMissing."""
    module_name, _, names = path.partition(":")
    module = module_named(module_name, path)
    try:
        return _walk(module, names)
    except AttributeError as error:
        raise CallableMissing(path, f"that is not there any more ({error})") from None


def find_class(path: str, kind: str) -> type[Any]:
    """Import a class. Raises ModuleMissing, and CallableMissing if it is none; *kind*: of what."""
    found = find_itself(path)
    if not isinstance(found, type):
        raise CallableMissing(path, f"that is no {kind} but a {type(found).__name__}")
    return found
