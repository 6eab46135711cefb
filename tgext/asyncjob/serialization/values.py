"""Converts values to JSON forms, and back to equal values of the same type.

A plain value, one that JSON can represent, is its own form. Typed values have the form
``{"$": kind, "v": ...}``, and so has a dict with a key ``"$"``. Reading calls no code of classes
of typed values: it makes an instance as ``copy`` does, after it has checked that the class is still
of the same kind. All other values are passed to the ``other`` of the Writer, and their forms to the
``others`` of the Reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from typing import Any

from ..call import is_orm_instance, path_of
from ..errors import BadCall, BadSignature, CallableMissing
from .references import Unserializable, find_class, path_to
from .scalars import READ_SCALAR, TAG, WRITE_SCALAR, Form, is_text, tagged, write_int

#: The deepest nesting: more than an argument needs, and within Python's limit of 1000 frames (three
#: for each level) together with the stack of a web request.
DEEPEST = 64

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


def shown(value: object) -> str:
    """Describe a value by its type alone: it may be a password."""
    return f"an instance of {path_of(type(value))}"


# -- writing


class Writer:
    """Writes the parts of one call or value.

    other: called with a value that is neither plain nor typed; returns its form, or raises
    Unserializable.
    """

    def __init__(self, other: Callable[[Any], Form]) -> None:
        self.names_classes = False  #: whether a form names a class, which reading imports
        self._other = other
        self._open: set[int] = set()
        self._depth = 0

    def write(self, value: Any) -> Form:
        """Return the form of *value*. Raises Unserializable if it cannot be stored."""
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        write_scalar = WRITE_SCALAR.get(kind)
        if write_scalar is not None:
            form = write_scalar(value)
            return self._other(value) if form is NotImplemented else form
        if self._depth >= DEEPEST:
            raise Unserializable(
                f"it is nested more than {DEEPEST} levels deep: pass it flatter, or an id"
            )
        self._depth += 1
        try:
            if kind in _CONTAINERS:
                return self._once(_CONTAINERS[kind], value)
            return self._write_instance(value, kind)
        finally:
            self._depth -= 1

    def _once(self, write: Callable[[Writer, Any], Form], value: Any) -> Form:
        if id(value) in self._open:
            raise Unserializable(
                f"it holds {shown(value)} that contains itself: pass it without the cycle"
            )
        self._open.add(id(value))
        try:
            return write(self, value)
        finally:
            self._open.discard(id(value))

    def _list(self, value: Any) -> Form:
        return [self.write(item) for item in value]

    def _dict(self, value: dict[Any, Any]) -> Form:
        if TAG not in value and all(type(key) is str and is_text(key) for key in value):
            return {key: self.write(item) for key, item in value.items()}
        pairs = [[self.write(key), self.write(item)] for key, item in value.items()]
        return tagged("dict", pairs)

    def _write_instance(self, value: Any, kind: type[Any]) -> Form:
        if is_orm_instance(value):
            raise Unserializable(
                f"it is or holds {shown(value)}, which SQLAlchemy detaches at the commit: pass its "
                "id and query it inside the job"
            )
        write = _writer_of(value, kind)
        path = None if write is None else path_to(kind)
        if write is None or path is None:
            return self._other(value)
        self.names_classes = True
        return {**self._once(write, value), "c": path}

    def _dataclass(self, value: Any) -> Form:
        of = {field.name: self.write(getattr(value, field.name)) for field in fields(value)}
        return tagged("dataclass", of)

    def _enum(self, value: Enum) -> Form:
        return tagged("enum", value._name_)

    def _flag(self, value: Flag) -> Form:
        return tagged("flag", write_int(value._value_))

    def _namedtuple(self, value: tuple[Any, ...]) -> Form:
        return tagged("namedtuple", self._list(value))


def _writer_of(value: Any, kind: type[Any]) -> Callable[[Writer, Any], Form] | None:
    """Return the method that writes an instance by its parts; None if it has other state."""
    if issubclass(kind, Enum):
        if kind.__members__.get(value._name_) is value:
            return Writer._enum
        # a combination of flags has no name
        is_flags = issubclass(kind, Flag) and kind(value._value_) is value
        return Writer._flag if is_flags else None
    if issubclass(kind, tuple):
        names = getattr(kind, "_fields", None)
        is_named = names is not None and len(names) == len(value)
        return Writer._namedtuple if is_named and not getattr(value, "__dict__", None) else None
    if is_dataclass(kind) and _is_its_fields(value, kind):
        return Writer._dataclass
    return None


def _is_its_fields(value: Any, kind: type[Any]) -> bool:
    names = {field.name for field in fields(kind)}
    attributes = set(getattr(value, "__dict__", ()))
    for base in kind.__mro__[:-1]:
        if not base.__flags__ & _HEAP_TYPE:  # a dict or an exception has state besides attributes
            return False
        slots = base.__dict__.get("__slots__", ())
        attributes.update([slots] if isinstance(slots, str) else slots)
    attributes -= {"__dict__", "__weakref__"}
    return attributes <= names and all(hasattr(value, name) for name in names)


_CONTAINERS: dict[type, Callable[[Writer, Any], Form]] = {
    list: Writer._list,
    dict: Writer._dict,
    tuple: lambda writer, value: tagged("tuple", writer._list(value)),
    set: lambda writer, value: tagged("set", writer._list(value)),
    frozenset: lambda writer, value: tagged("frozenset", writer._list(value)),
}


# -- reading


class Reader:
    """Reads the parts of one call or value.

    others: functions that read the forms of other kinds, by kind.
    imports: whether a form may name a class to import.
    """

    def __init__(
        self, others: Mapping[str, Callable[[dict[str, Form]], Any]], *, imports: bool = True
    ) -> None:
        self._others = others
        self._imports = imports

    def read(self, form: Form) -> Any:
        """Return the value of a form. Raises ModuleMissing, CallableMissing, BadCall.

        A malformed form may raise any exception.
        """
        if type(form) is list:
            return [self.read(item) for item in form]
        if type(form) is not dict:
            return form
        if TAG not in form:
            return {key: self.read(item) for key, item in form.items()}
        kind = form[TAG]
        if kind in READ_SCALAR:
            return READ_SCALAR[kind](form)
        if kind in _PARTS:
            return _PARTS[kind](self, form)
        return self._others[kind](form)

    def _dict(self, form: dict[str, Form]) -> Any:
        return {self.read(key): self.read(item) for key, item in form["v"]}

    def _class(self, path: str, kind: str) -> type[Any]:
        if not self._imports:
            raise BadSignature(
                f"expected a value that names the {kind} {path} to be signed by asyncjob.secret, "
                "got no signature: it was changed, or stored without a secret; it was not opened"
            )
        return find_class(path, kind)

    def _dataclass(self, form: dict[str, Form]) -> Any:
        kind = self._class(form["c"], "dataclass")
        if not is_dataclass(kind):
            raise CallableMissing(form["c"], "it is not a dataclass")
        stored, now = list(form["v"]), [field.name for field in fields(kind)]
        if sorted(stored) != sorted(now):
            raise BadCall(
                f"expected the dataclass {form['c']} as it was stored, with the fields {stored}, "
                f"but now it has {now}; enqueue the job again"
            )
        value: Any = object.__new__(kind)
        for name, item in form["v"].items():
            object.__setattr__(value, name, self.read(item))  # it may be frozen
        return value

    def _enum(self, form: dict[str, Form]) -> Any:
        kind = self._class(form["c"], "Enum")
        if not issubclass(kind, Enum) or form["v"] not in kind.__members__:
            raise CallableMissing(form["c"], f"it is not an Enum with a member {form['v']!r}")
        return kind.__members__[form["v"]]

    def _flag(self, form: dict[str, Form]) -> Any:
        kind = self._class(form["c"], "Flag")
        if not issubclass(kind, Flag):
            raise CallableMissing(form["c"], "it is not a Flag")
        return kind(self.read(form["v"]))

    def _namedtuple(self, form: dict[str, Form]) -> Any:
        kind = self._class(form["c"], "namedtuple")
        items, names = self.read(form["v"]), getattr(kind, "_fields", None)
        if not issubclass(kind, tuple) or names is None or len(names) != len(items):
            what = f"it is not a namedtuple of {len(items)} fields"
            raise CallableMissing(form["c"], what)
        return tuple.__new__(kind, items)


_PARTS: dict[str, Callable[[Reader, dict[str, Form]], Any]] = {
    "dict": Reader._dict,
    "tuple": lambda reader, form: tuple(reader.read(form["v"])),
    "set": lambda reader, form: set(reader.read(form["v"])),
    "frozenset": lambda reader, form: frozenset(reader.read(form["v"])),
    "dataclass": Reader._dataclass,
    "enum": Reader._enum,
    "flag": Reader._flag,
    "namedtuple": Reader._namedtuple,
}
