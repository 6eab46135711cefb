"""Write calls as the entries of a store, read them back, and write how they ended.

An entry is a dictionary: ``name``, ``func``, ``args``, ``kwargs``, ``init_args``,
``init_kwargs``, ``start_time``, ``task_status``, then ``result`` or ``error``. Without a secret
its values are stored as they are, and ``func`` is None or a pickle: reading one runs whatever code
is in it, so **only its owner may be able to write to such a store**. With a secret the values are
JSON (see ``serialization``) under a signature that includes their key; an entry whose signature is
wrong is never opened. A signature does not prevent that a signed call is stored, and run, again.
"""

from __future__ import annotations

import hmac
import json
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..call import Call, path_of
from ..errors import (
    BadCall,
    BadSignature,
    CallableMissing,
    MissingExtra,
    NotSerializable,
    RemoteError,
    Unreadable,
)
from .remote_errors import Failure, with_traceback

log = logging.getLogger(__name__)

Entry = dict[str, Any]

NEW, RUNNING, COMPLETE, ERROR = "new", "running", "complete", "error"

#: The fields that the signature of a call covers, and that of its end.
_CALL = ("name", "func", "init_args", "args", "init_kwargs", "kwargs")
_END = ("task_status", "result", "error", "exception", "unstorable")


class Entries:
    """Writes and reads entries. secret: None: entries are not signed.

    unpickle: reads a ``func`` of bytes; None: ``pickle.loads``.
    """

    def __init__(
        self, secret: str | None = None, unpickle: Callable[[bytes], Any] | None = None
    ) -> None:
        self._serializer: Any = None if secret is None else _serialization().CallSerializer(secret)
        self._unpickle = unpickle or pickle.loads

    # -- calls

    def write(
        self,
        key: str,
        name: str,
        func: Callable[..., Any] | bytes | None,
        given: tuple[Any, Any, Any, Any],
    ) -> Entry:
        """Return the entry of a new call.

        func: the function, or bytes that ``unpickle`` of a reader takes; None: the reader finds it
        by *name*. given: init_args, args, init_kwargs, kwargs.
        Raises NotSerializable.
        """
        init_args, args, init_kwargs, kwargs = given
        entry = {
            "name": name,
            "func": func,
            "init_args": list(init_args),
            "args": list(args),
            "init_kwargs": dict(init_kwargs),
            "kwargs": dict(kwargs),
            "start_time": int(time.time() * 1000),
            "task_status": NEW,
        }
        if self._serializer is None:
            if func is not None and not isinstance(func, bytes):
                entry["func"] = dump_function(func)
            return entry
        write = _closures().CodeWriter(signed=True).write
        for field in _CALL[1:]:  # in the order of reading
            entry[field] = _written(write, entry[field], f"{field} of {name}")
        return {**entry, "signature": self._sign(key, "call", entry, _CALL)}

    def read(
        self, key: str, entry: Entry, get_task_func: Callable[[Entry], Any] | None
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return function, arguments and keywords of an entry.

        get_task_func: returns the function of an entry; None: it is in the entry.
        Raises BadSignature before anything is opened, CallableMissing for a function that is not
        found, Unreadable for values that are no call, BadCall for a keyword that is given twice,
        and what *get_task_func* raises.
        """
        values = {field: entry.get(field) for field in _CALL}
        if self._serializer is not None:
            self._verify(key, entry, "call", _CALL)
            read = _closures().CodeReader(trusted=True).read
            values.update((field, read(entry[field])) for field in _CALL[1:])
        elif "signature" in entry:
            raise BadSignature(
                f"entry {key!r} is signed, and this reader has no secret to verify it; give it "
                "the secret= of the writer"
            )
        args = (*(values["init_args"] or ()), *(values["args"] or ()))
        init_kwargs, kwargs = values["init_kwargs"] or {}, values["kwargs"] or {}
        if not (isinstance(init_kwargs, Mapping) and isinstance(kwargs, Mapping)):
            raise Unreadable(
                f"expected dictionaries as kwargs and init_kwargs of entry {key!r}, got "
                f"{type(kwargs).__name__} and {type(init_kwargs).__name__}"
            )
        function = get_task_func({**entry, **values}) if get_task_func is not None else None
        if function is None:
            function = self._function(key, values)
        if not callable(function):
            what = f"an instance of {path_of(type(function))}"
            raise CallableMissing(str(values["name"]), f"it is {what}, which cannot be called")
        if twice := sorted(map(str, set(init_kwargs) & set(kwargs))):
            raise BadCall(
                f"{path_of(function)} got {', '.join(twice)} twice: when the task was made, and in "
                "its call"
            )
        return function, args, {**init_kwargs, **kwargs}

    def _function(self, key: str, values: Entry) -> Any:
        func = values["func"]
        if func is None:
            raise CallableMissing(
                str(values["name"]),
                f"entry {key!r} has only this name, and no get_task_func here finds it",
            )
        return self._unpickle(bytes(func)) if isinstance(func, (bytes, bytearray)) else func

    # -- ends

    def completed(self, key: str, entry: Entry, value: Any) -> Entry:
        """Return the entry of a call that returned *value*, or that of ``unstorable``."""
        ended = {**entry, "task_status": COMPLETE, "result": value}
        if self._serializer is None:
            return ended
        try:
            ended["result"] = _written(_closures().CodeWriter(signed=True).write, value, "result")
        except NotSerializable as why:
            return self.unstorable(key, entry, str(why))
        return self._signed_end(key, ended)

    def unstorable(self, key: str, entry: Entry, why: str) -> Entry:
        """Return the entry of a call that succeeded with a value that cannot be stored."""
        log.warning("task %s: the result of %s is not kept: %s", key, entry.get("name"), why)
        ended = {**entry, "task_status": COMPLETE, "result": None, "unstorable": why}
        return self._signed_end(key, ended)

    def failed(self, key: str, entry: Entry, error: BaseException) -> Entry:
        """Return the entry of a call that raised; ``error`` is the traceback, as text."""
        failure = Failure.of(error)
        ended = {**entry, "task_status": ERROR, "error": failure.traceback.rstrip()}
        fit = error if failure.pickled is not None else failure.stand_in()
        if self._serializer is None:
            return {**ended, "exception": failure.pickled or pickle.dumps(fit)}
        try:
            form = _written(_closures().CodeWriter(signed=True).write, fit, "exception")
        except NotSerializable:  # of a class in a script, for example; its text is kept
            form = None
        return self._signed_end(key, {**ended, "exception": form})

    def outcome(self, key: str, entry: Entry) -> Any:
        """Return the value of an entry that has ended, or raise what its call raised.

        Raises BadSignature, and NotSerializable for a value that could not be stored.
        """
        if self._serializer is not None:
            self._verify(key, entry, "end", _END)
        if entry["task_status"] == ERROR:
            raise self._error_of(entry)
        if why := entry.get("unstorable"):
            raise NotSerializable(why)
        value = entry.get("result")
        return (
            value if self._serializer is None else _closures().CodeReader(trusted=True).read(value)
        )

    def _error_of(self, entry: Entry) -> BaseException:
        kept, text = entry.get("exception"), str(entry.get("error"))
        try:
            read = _closures().CodeReader(trusted=True).read if self._serializer else pickle.loads
            error = read(kept) if kept else None
        except Exception:  # noqa: BLE001 - its own code runs, and its class may be missing here
            error = None
        if not isinstance(error, BaseException):
            class_path, _, said = text.rpartition("\n")[2].partition(": ")
            error = RemoteError(class_path, said, text)
        return with_traceback(error, text)

    # -- signatures

    def _signed_end(self, key: str, ended: Entry) -> Entry:
        if self._serializer is None:
            return ended
        return {**ended, "end_signature": self._sign(key, "end", ended, _END)}

    def _verify(self, key: str, entry: Entry, part: str, fields: tuple[str, ...]) -> None:
        came = entry.get("signature" if part == "call" else "end_signature")
        expected = self._sign(key, part, entry, fields)
        if not isinstance(came, str) or not hmac.compare_digest(expected.encode(), came.encode()):
            which = "none" if came is None else "another signature"
            raise BadSignature(
                f"expected the {part} of entry {key!r} to be signed with the secret given here, "
                f"got {which}: it was changed, belongs under another key, or has another secret; "
                "it was not opened"
            )

    def _sign(self, key: str, part: str, entry: Entry, fields: tuple[str, ...]) -> str:
        try:
            content = json.dumps([entry.get(field) for field in fields], sort_keys=True)
        except (TypeError, ValueError) as error:
            raise BadSignature(f"entry {key!r} is not JSON, as a signed one is: {error}") from error
        # The serializer signs calls; which function is called does not matter here.
        stored = self._serializer.dump(f"{part} {key}", Call(path_of, (content,), None))
        return str(stored.signature)


def _written(write: Callable[[Any], Any], value: Any, what: str) -> Any:
    try:
        return write(value)
    except Exception as error:  # the value's own code runs
        raise NotSerializable(
            f"expected a task that can be stored, but {what} cannot: {error}"
        ) from error


def _serialization() -> Any:
    try:
        from .. import serialization
    except ImportError as error:
        raise MissingExtra("a store with a secret, or with a closure in it,", "store") from error
    return serialization


def _closures() -> Any:
    _serialization()
    from ..serialization import closures

    return closures


def dump_function(function: Callable[..., Any]) -> bytes:
    """Return a pickle of *function*; of a closure, one that is rebuilt in its module.

    Raises NotSerializable, and MissingExtra for a closure without the extra ``store``.
    """
    try:
        return pickle.dumps(function)
    except Exception:  # noqa: BLE001 - pickling a function may raise anything
        form = _written(_closures().CodeWriter(signed=True).write, function, "the function")
    return pickle.dumps(_Rebuilt(json.dumps(form)))


class _Rebuilt:
    """Unpickles as the function that its text describes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return rebuild_function, (self._text,)


def rebuild_function(text: str) -> Any:
    """Return the function that ``dump_function`` has described, in its imported module."""
    return _closures().CodeReader(trusted=True).read(json.loads(text))
