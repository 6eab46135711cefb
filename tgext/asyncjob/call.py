"""A call: a target and its arguments, checked at the enqueue.

Knows nothing of jobs. Every enqueue calls ``check``, so the common case (a plain function,
positional arguments of plain types) takes less than a microsecond.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import AsyncGeneratorType, FunctionType, GeneratorType, MethodType
from typing import Any, NamedTuple

from .errors import BadCall, NotSerializable

#: Makes a NamedTuple of the tuple of all its fields. The class itself does it by a Python function,
#: which takes twice as long; that is for what each job makes, and counts.
of_fields = tuple.__new__

#: Types whose values need no further check.
PLAIN = frozenset({str, int, float, bool, bytes, type(None)})

#: The flags of a generator function, of which a call runs no line.
_GENERATES = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Call(NamedTuple):
    """What a job runs."""

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] | None  #: None instead of an empty dict, which takes 64 bytes a job

    @property
    def name(self) -> str:
        """The dotted path of the target, or of its class; see ``path_of``."""
        return path_of(self.target)


#: The arguments of one of many calls: positional ones, keywords, or a whole call.
Arguments = tuple[Any, ...] | dict[str, Any] | Call


def call_of(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Call:
    """Return the call of what is enqueued: a callable, a Task, or an object that stands for a call,
    as a chain of executors does."""
    kind: Any = type(target)
    if kind is not FunctionType and hasattr(kind, "__asyncjob_call__"):
        made: Call = kind.__asyncjob_call__(target, args, kwargs or None)
        return made
    return of_fields(Call, (target, args, kwargs or None))


def call_with(target: Any, given: Arguments) -> Call:
    """Return one of many calls of a target. Raises BadCall if *given* is no ``Arguments``."""
    if isinstance(given, Call):
        if given.target is target:
            return given
        raise BadCall(f"expected a Call of {path_of(target)}, got one of {given.name}")
    if isinstance(given, tuple):
        return call_of(target, given, None)
    if isinstance(given, dict) and all(isinstance(name, str) for name in given):
        return call_of(target, (), given)
    raise BadCall(
        "expected a tuple of positional arguments, a dict of keywords or a Call, got "
        f"{_shown(given)}; one argument is a tuple too: (value,)"
    )


def path_of(target: object) -> str:
    """Return the dotted path of a function, method or class; of any other object its class's."""
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


def check(
    target: object, args: tuple[Any, ...], kwargs: dict[str, Any], *, implied: int = 0
) -> None:
    """Check that a call can work.

    implied: how many positional arguments the worker passes before *args*.
    Raises BadCall if *target* is not callable or *args* and *kwargs* do not fit its signature,
    NotSerializable if an argument is bound to the caller's database session.
    """
    if not callable(target):
        raise BadCall(
            f"expected something callable to run as a job, got {_shown(target)}; "
            "give the function itself and its arguments after it, as in asyncjob_perform(f, 1)"
        )
    if not _plainly_fits(target, len(args) + implied, kwargs):
        _check_lines(target)
        _check_signature(target, args, kwargs, implied)
    for value in args:
        if type(value) not in PLAIN:
            _check_detached(value)
    for value in kwargs.values():
        if type(value) not in PLAIN:
            _check_detached(value)


def _check_lines(target: Callable[..., Any]) -> None:
    if _generates(target):
        raise BadCall(
            "expected a function that does its work when it is called, got the generator function "
            f"{path_of(target)}, of which a call runs no line; replace its `yield` "
            "(asyncjob_set_progress() reports how far it is), or enqueue a function that iterates "
            "over it"
        )


def _generates(target: object) -> bool:
    """Whether a call of *target* would only make a generator, as far as its type shows."""
    while type(target) is not FunctionType:
        kind: Any = type(target)
        if issubclass(kind, functools.partial):
            target = target.func  # type: ignore[attr-defined]
        elif issubclass(kind, (MethodType, staticmethod)):
            target = target.__func__  # type: ignore[attr-defined]
        elif issubclass(kind, type) or type(kind.__call__) is not FunctionType:
            return False
        else:
            target = kind.__call__
    flags = target.__code__.co_flags
    # A generator function marked by types.coroutine() is awaited, so its lines run.
    return bool(flags & _GENERATES) and not flags & inspect.CO_ITERABLE_COROUTINE


def check_done(value: object) -> None:
    """Check that a returned value is not a generator that still has lines to run.

    A decorated generator function returns one, also that of a ``contextmanager``. A generator
    expression is accepted here: it is a value, though one that cannot be kept.
    Raises BadCall.
    """
    kind: Any = type(value)
    if kind in PLAIN:
        return
    made: Any = value
    if kind.__module__ == "contextlib" and hasattr(value, "gen"):
        made = value.gen
    if type(made) is GeneratorType:
        is_open = made.gi_frame is not None
    else:
        is_open = type(made) is AsyncGeneratorType and made.ag_frame is not None
    if is_open and made.__name__ != "<genexpr>":
        raise BadCall(
            f"expected a function that has done its work when it returns, got a {kind.__name__} of "
            f"{made.__qualname__}, of which not all lines have run; call what iterates over it"
        )


def _plainly_fits(target: object, given: int, kwargs: dict[str, Any]) -> bool:
    """Whether a plain Python function accepts that many positional arguments: a quick check."""
    if kwargs or type(target) is not FunctionType:
        return False
    code = target.__code__
    if code.co_flags & _GENERATES:
        return False
    if code.co_kwonlyargcount > len(target.__kwdefaults__ or ()):
        return False
    if given < code.co_argcount - len(target.__defaults__ or ()):
        return False
    return given <= code.co_argcount or bool(code.co_flags & inspect.CO_VARARGS)


def _check_signature(
    target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], implied: int
) -> None:
    try:
        # follow_wrapped=False: the wrapper is called, not the function that a decorator wraps.
        signature = inspect.signature(target, follow_wrapped=False)
    except (ValueError, TypeError):  # some builtins have none
        return
    try:
        signature.bind(*(None,) * implied, *args, **kwargs)
    except TypeError as error:
        raise BadCall(
            f"the arguments do not fit {path_of(target)}{signature}: {error}; "
            f"got {len(args)} positional and {sorted(kwargs) or 'no'} keyword arguments"
        ) from None


def _check_detached(value: Any) -> None:
    """Refuse an ORM instance, also inside a container: the commit detaches it."""
    seen = set()  # a container may contain itself
    waiting = [value]
    while waiting:
        value = waiting.pop()
        kind = type(value)  # not isinstance: a proxy may pretend to be of another class, or raise
        if issubclass(kind, (list, tuple, set, frozenset, dict)):
            if id(value) not in seen:
                seen.add(id(value))
                items = value.values() if issubclass(kind, dict) else value
                waiting += [item for item in items if type(item) not in PLAIN]
        elif is_orm_instance(value):
            raise NotSerializable(
                f"expected an argument that is independent of this session, got {_shown(value)}, "
                "which SQLAlchemy detaches at the commit; pass its id and query it inside the job"
            )


def is_orm_instance(value: object) -> bool:
    """Whether *value* is an instance of a class that SQLAlchemy maps; imports nothing."""
    # The class is inspected: a proxy or a mock may have any attribute, or raise for each.
    return hasattr(type(value), "_sa_class_manager")


def why_not_kept(result: object) -> str | None:
    """Return the reason why a job's return value cannot be kept; None if it can be.

    The commit detaches a database object. An iterator can be consumed only once, and may need the
    session, which is closed by then.
    """
    if type(result) in PLAIN:
        return None
    try:
        _check_detached(result)
    except NotSerializable:
        return f"it is or holds a database object ({type(result).__name__}): return its id"
    except Exception as error:  # noqa: BLE001 - a container of the job's own may raise anything
        return f"looking into a {type(result).__name__} raised {type(error).__name__}"
    if hasattr(type(result), "__next__") or hasattr(type(result), "__anext__"):
        return f"it is a {type(result).__name__}: return a list of what it yields"
    return None


def _shown(value: object) -> str:
    """A short ``repr``; only the type of a value whose ``repr`` may raise or use a database."""
    if type(value) in PLAIN:
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return f"an instance of {path_of(type(value))}"
