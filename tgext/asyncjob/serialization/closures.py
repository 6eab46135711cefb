"""Converts code to JSON forms, and back: paths of functions, closures, bound methods, pickles.

A function, class or Task that can be imported is written as its path. Everything else is code, or
runs code when it is read. It is written only with a secret, and read only by a ``trusted``
CodeReader, after the signature was verified.

A closure belongs to its module: it is rebuilt with the globals of that module in the reading
process, not with a copy. Its annotations are not stored.
"""

from __future__ import annotations

import base64
import functools
import marshal
import pickle
import sys
from collections.abc import Callable
from io import BytesIO
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

from ..call import is_orm_instance, path_of
from ..errors import BadSignature, CallableMissing, ModuleMissing, OtherPython
from ..task import Task
from .references import (
    Unserializable,
    find,
    find_itself,
    importable,
    module_named,
    path_to,
)
from .scalars import Form, as_text, tagged
from .values import Reader, Writer, shown

#: The implementation and version of Python, which marshalled code depends on.
PYTHON = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"

#: The newest protocol of every Python that is supported.
_PROTOCOL = 5


# -- writing


class CodeWriter:
    """Writes the target and arguments of one call. signed: whether there is a secret."""

    def __init__(self, *, signed: bool) -> None:
        self.write = Writer(self._write_other).write
        self._signed = signed
        self._functions: dict[int, int] = {}
        self._cells: dict[int, int] = {}

    def _write_other(self, value: Any) -> Form:
        path = path_to(value)
        if path is not None:
            return tagged("task" if isinstance(value, Task) else "name", path)
        if type(value) is functools.partial and not vars(value):
            return tagged("partial", [self.write(part) for part in _parts_of(value)])
        self._expect_secret(value)
        if type(value) is FunctionType:
            return self._write_function(value)
        if type(value) is MethodType:
            parts = [self.write(value.__func__), self.write(value.__self__)]
            return tagged("method", parts)
        if type(value) in (BuiltinMethodType, MethodWrapperType):
            return tagged("method of", [self.write(value.__self__), value.__name__])
        if type(value) is ModuleType:
            return tagged("module", importable(value.__name__, value))
        return tagged("pickle", as_text(_pickled(value)))

    def _expect_secret(self, value: Any) -> None:
        if not self._signed:
            is_function = isinstance(value, FunctionType)
            # For an object of a script this raises: it needs another module, not a secret.
            importable(value.__module__ if is_function else type(value).__module__, value)
            what = path_of(value) if is_function else shown(value)
            raise Unserializable(
                f"it is or holds {what}, which is neither JSON nor found by a dotted path: "
                "give asyncjob.secret, with which it is pickled and signed, or pass an id or a "
                "module-level function"
            )

    def _write_function(self, function: FunctionType) -> Form:
        known = self._functions.get(id(function))
        if known is not None:
            return tagged("again", known)
        self._functions[id(function)] = number = len(self._functions)
        module = function.__globals__.get("__name__")
        if getattr(sys.modules.get(str(module)), "__dict__", None) is not function.__globals__:
            raise Unserializable(
                f"{path_of(function)} has globals that are not those of a module, as a function "
                "made by exec: define it in a module"
            )
        # All cells get numbers before the first is written, since one may refer to another.
        cells = function.__closure__ or ()
        new = [cell for cell in cells if id(cell) not in self._cells]
        for cell in new:
            self._cells[id(cell)] = len(self._cells)
        return tagged(
            "function",
            number,
            python=PYTHON,
            module=importable(str(module), function),
            names=[function.__module__, function.__name__, function.__qualname__],
            code=as_text(_marshalled(function)),
            cells=[self._cells[id(cell)] for cell in cells],
            # in the order in which they are read
            holds=[[self._cells[id(cell)], *self._content(cell)] for cell in new],
            rest=self.write(
                [
                    function.__defaults__,
                    function.__kwdefaults__,
                    function.__doc__,
                    vars(function).copy() or None,
                ]
            ),
        )

    def _content(self, cell: CellType) -> list[Form]:
        try:
            content = cell.cell_contents
        except ValueError:  # it is empty: its variable is not assigned yet
            return []
        return [self.write(content)]


def _parts_of(value: functools.partial[Any]) -> tuple[Any, Any, Any]:
    return value.func, value.args, value.keywords


def _marshalled(function: FunctionType) -> bytes:
    try:
        return marshal.dumps(function.__code__)
    except ValueError as error:
        raise Unserializable(f"the code of {path_of(function)} cannot be stored: {error}") from None


class _Pickler(pickle.Pickler):
    """Refuses objects that another process would not find, and database objects."""

    def reducer_override(self, value: Any) -> Any:
        if is_orm_instance(value):
            raise Unserializable(
                f"it holds {shown(value)}, which SQLAlchemy detaches at the commit: pass its id "
                "and query it inside the job"
            )
        if isinstance(value, (type, FunctionType)):
            importable(value.__module__, value)
        return NotImplemented


def _pickled(value: Any) -> bytes:
    buffer = BytesIO()
    try:
        _Pickler(buffer, _PROTOCOL).dump(value)
    except Unserializable:
        raise
    except Exception as error:  # code of the value's class runs, and may raise anything
        raise Unserializable(
            f"it is or holds {shown(value)}, which cannot be pickled "
            f"({type(error).__name__}: {error}): pass an id and find it inside the job, or a "
            "module-level function"
        ) from error
    return buffer.getvalue()


# -- reading


class CodeReader:
    """Reads the target and arguments of one call. trusted: whether its signature was verified."""

    def __init__(self, *, trusted: bool) -> None:
        self._functions: dict[int, FunctionType] = {}
        self._cells: dict[int, CellType] = {}
        open_to_all: dict[str, Callable[[dict[str, Form]], Any]] = {
            "name": lambda form: find(form["v"]),
            "task": lambda form: find_itself(form["v"]),
            "partial": self._partial,
        }
        signed_only: dict[str, Callable[[dict[str, Form]], Any]] = {
            "function": self._function,
            "again": lambda form: self._functions[form["v"]],
            "method": self._method,
            "method of": self._method_of,
            "module": lambda form: module_named(form["v"], form["v"]),
            "pickle": _unpickled,
        }
        if not trusted:
            signed_only = dict.fromkeys(signed_only, _refuse)
        self.read = Reader({**open_to_all, **signed_only}).read

    def _partial(self, form: dict[str, Form]) -> Any:
        function, args, keywords = map(self.read, form["v"])
        return functools.partial(function, *args, **keywords)

    def _method(self, form: dict[str, Form]) -> Any:
        return MethodType(*map(self.read, form["v"]))

    def _method_of(self, form: dict[str, Form]) -> Any:
        owner, name = form["v"]
        return getattr(self.read(owner), name)

    def _function(self, form: dict[str, Form]) -> Any:
        named_in, name, qualname = form["names"]
        if form["python"] != PYTHON:
            raise OtherPython(f"{named_in}.{qualname}", form["python"], PYTHON)
        module = module_named(form["module"], f"{form['module']}:{qualname}")
        for number in form["cells"]:
            self._cells.setdefault(number, CellType())
        closure = tuple(self._cells[number] for number in form["cells"]) or None
        code = marshal.loads(base64.b64decode(form["code"]))
        function = FunctionType(code, vars(module), name, None, closure)
        # Registered before its parts are read: one of them may refer to the function.
        self._functions[form["v"]] = function
        function.__module__, function.__qualname__ = named_in, qualname
        for number, *content in form["holds"]:
            if content:
                self._cells[number].cell_contents = self.read(content[0])
        defaults, kwdefaults, doc, attributes = self.read(form["rest"])
        function.__defaults__, function.__kwdefaults__ = defaults, kwdefaults
        function.__doc__ = doc
        vars(function).update(attributes or {})
        return function


def _refuse(form: dict[str, Form]) -> Any:
    raise BadSignature(
        f"expected plain JSON and dotted paths, since there is no asyncjob.secret here, got a "
        f"{form['$']}, which was not opened; give this process the secret of the one that enqueues"
    )


def _unpickled(form: dict[str, Form]) -> Any:
    try:
        return pickle.loads(base64.b64decode(form["v"]))
    except ModuleNotFoundError as error:
        raise ModuleMissing(error.name or "?", error.name or "?") from error
    except AttributeError as error:
        raise CallableMissing("a class of a pickled value", str(error)) from error
