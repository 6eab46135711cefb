"""Converts calls to text that a database row can hold, and back, in another process.

Plain JSON values, typed values (see ``values``) and a target with a dotted path need no secret.
Everything else (see ``closures``) is written only with a secret. With a secret, nothing is
imported, rebuilt or unpickled before the signature is verified. This package knows nothing of rows.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn

from ..call import Call, check
from ..errors import (
    AsyncJobError,
    BadSignature,
    CallableMissing,
    ConfigError,
    NotSerializable,
    Unreadable,
)
from ..job import storable
from ..task import Task
from .closures import CodeReader, CodeWriter
from .references import Unserializable, find, find_itself, path_to
from .scalars import TAG, Form, is_own_form, tagged
from .signer import Signer
from .values import Reader, Writer, shown

__all__ = ["CallSerializer", "SerializedCall"]

# Of json.loads() half the time goes into white space that may surround a text: here is none.
_read = json.JSONDecoder().raw_decode
_dump = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode
_TAGGED = f'"{TAG}"'


class SerializedCall(NamedTuple):
    """A call as text; name and payload are signed as they are here."""

    name: str  #: the dotted path, for display
    payload: str  #: JSON, ASCII only
    signature: str | None  #: None: there was no secret


class CallSerializer:
    """Dumps and loads calls and values. secret: None: only plain and typed values."""

    def __init__(self, secret: str | None) -> None:
        if secret is not None and not secret.strip():
            raise ConfigError(
                "asyncjob.secret: expected a secret word, got an empty one; "
                "leave it out to do without signatures"
            )
        self._call_signer = Signer(secret, "call") if secret else None
        self._value_signer = Signer(secret, "value") if secret else None

    @property
    def signs(self) -> bool:
        """Whether it has a secret."""
        return self._call_signer is not None

    def dump(self, uid: str, call: Call, *, bound: str = "") -> SerializedCall:
        """Return *call* as text, for the job *uid*.

        bound: the digest of what else the signature is to cover; ``load`` must get the same.
        Raises NotSerializable for a target or an argument that cannot be stored.
        """
        target = call.target.func if isinstance(call.target, Task) else call.target
        content: dict[str, Form] = {}
        part = "the callable"
        try:
            path = path_to(target)
            # Most arguments are their own forms, and a writer takes longer to make than to use.
            is_written = path is not None and is_own_form(*call.args, *(call.kwargs or {}).values())
            write = _itself if is_written else CodeWriter(signed=self.signs).write
            content["f"] = write(target) if path is None else path
            if call.args:
                content["a"] = args = []
                for number, value in enumerate(call.args, 1):
                    part = f"argument {number}"
                    args.append(write(value))
            if call.kwargs:
                content["k"] = kwargs = []
                for name, value in call.kwargs.items():
                    part = f"argument {name!r}"
                    kwargs.append([name, write(value)])
        except Unserializable as why:
            raise _refused_call(part, call, str(why)) from why.__cause__
        except Exception as error:  # code of a value's class runs here, and may raise anything
            raise _refused_call(part, call, _raised(error)) from error
        name = storable(call.name) if path is None else path.replace(":", ".")
        signer = self._call_signer
        if bound and signer is not None:
            content["b"] = bound
        payload = _dump(content)
        signature = None if signer is None else _signature(signer, _signed_text(uid, name, payload))
        return SerializedCall(name, payload, signature)

    def load(
        self, uid: str, serialized: SerializedCall, *, bound: str = "", implied: int = 0
    ) -> Call:
        """Return the call that was stored for the job *uid*.

        bound: the digest of what else was signed; a call that was dumped without one fits any.
        implied: how many positional arguments the worker passes before the stored ones.
        Raises BadSignature before anything is imported; ModuleMissing, after which another worker
        may be able to run the call; CallableMissing, BadCall, OtherPython or Unreadable.
        """
        self._verify(uid, serialized)
        try:
            content, end = _read(serialized.payload)
            if end != len(serialized.payload):
                raise ValueError("it goes on after its end")
            self._verify_bound(uid, content, bound)
            call = self._call_of(serialized, content)
        except AsyncJobError:
            raise
        except Exception as error:  # a malformed payload, or a class in it, may raise anything
            raise _unreadable(f"the payload of job {uid!r}", error) from error
        if not callable(call.target):
            raise CallableMissing(
                serialized.name, f"it cannot be called: it is {shown(call.target)}"
            )
        check(call.target, call.args, call.kwargs or {}, implied=implied)
        return call

    def moved(
        self, serialized: SerializedCall, *, old: tuple[str, str], new: tuple[str, str]
    ) -> SerializedCall:
        """Return a stored call, which is not opened, as that of another job.

        old, new: of each job the uid and what else its signature covers: see ``dump``.
        Raises BadSignature if it is not the call of the old one.
        """
        self._verify(old[0], serialized)
        signer = self._call_signer
        if signer is None:
            return serialized
        content = json.loads(serialized.payload)
        self._verify_bound(old[0], content, old[1])
        payload = _dump({**content, "b": new[1]})
        text = _signed_text(new[0], serialized.name, payload)
        return SerializedCall(serialized.name, payload, _signature(signer, text))

    def _call_of(self, serialized: SerializedCall, content: dict[str, Form]) -> Call:
        path = content["f"]
        if isinstance(path, str) and path.replace(":", ".") != serialized.name:
            raise BadSignature(
                f"expected a call of {serialized.name}, got one of {path}: the row was changed; "
                "enqueue the job again"
            )
        args, kwargs = content.get("a", ()), content.get("k", ())
        if isinstance(path, str) and _TAGGED not in serialized.payload:
            named = {str(name): form for name, form in kwargs} if kwargs else None
            return Call(find(path), tuple(args), named)
        # In the order of writing, since a later part may refer to an earlier one.
        read = CodeReader(trusted=self._call_signer is not None).read
        target = find(path) if isinstance(path, str) else read(path)
        args = [read(form) for form in args]
        return Call(target, tuple(args), {str(name): read(form) for name, form in kwargs} or None)

    def task_of(self, serialized: SerializedCall) -> Task | None:
        """Return the Task that a verified call names; None if it names something else."""
        path = json.loads(serialized.payload).get("f")
        found = find_itself(path) if isinstance(path, str) else None
        return found if isinstance(found, Task) else None

    def _verify(self, uid: str, serialized: SerializedCall) -> None:
        signer, signature = self._call_signer, serialized.signature
        if signer is None and signature is None:
            return
        if signer is None:
            raise BadSignature(
                f"job {uid!r} was stored with a signature, and this process has no asyncjob.secret "
                "to verify it; give it the secret of the one that enqueues"
            )
        text = _signed_text(uid, serialized.name, serialized.payload)
        if signature is None or not _is_signature(signature, signer, text):
            came = "none" if signature is None else "one that does not fit"
            raise BadSignature(
                f"expected the signature of job {uid!r} by asyncjob.secret, got {came}: the row "
                "was changed, belongs to another job, or was signed with another secret; it was "
                "not opened; enqueue the job again"
            )

    def _verify_bound(self, uid: str, content: dict[str, Form], bound: str) -> None:
        if self._call_signer is not None and content.get("b", bound) != bound:
            raise BadSignature(
                f"expected job {uid!r} with the options, the queue and the user with which it was "
                "enqueued into these tables, got others: the row was changed, or is a copy from "
                "other tables; it was not run; enqueue the job again"
            )

    def dump_value(self, value: Any) -> str:
        """Return *value*, a result or the data of a progress report, as JSON; never pickled.

        A text that names a class, which reading imports, is signed if there is a secret.
        Raises NotSerializable for a value that is neither plain nor typed.
        """
        writer = Writer(_refuse_other)
        try:
            text = _dump(writer.write(value))
        except Unserializable as why:
            raise _refused_value(value, str(why)) from why.__cause__
        except Exception as error:  # as in dump
            raise _refused_value(value, _raised(error)) from error
        if writer.names_classes and self._value_signer:
            return _dump(tagged("signed", text, by=_signature(self._value_signer, text)))
        return text

    def load_value(self, text: str) -> Any:
        """Return the value of a text that ``dump_value`` returned.

        Raises BadSignature, ModuleMissing, CallableMissing, BadCall for a dataclass that has other
        fields now, and Unreadable.
        """
        try:
            form = json.loads(text)
            if _TAGGED not in text:
                return form
            return self._read_value(form)
        except AsyncJobError:
            raise
        except Exception as error:  # a malformed text, or a class in it, may raise anything
            raise _unreadable("a stored value", error) from error

    def _read_value(self, form: Form) -> Any:
        signer = self._value_signer
        signed = isinstance(form, dict) and form.get(TAG) == "signed"
        if signed:
            if not signer or not _is_signature(form["by"], signer, form["v"]):
                raise BadSignature(
                    "expected a value signed by asyncjob.secret, got one that was changed or "
                    "signed with another secret; it was not opened"
                )
            form = json.loads(form["v"])
        return Reader({}, imports=signed or signer is None).read(form)


def _itself(value: Form) -> Form:
    return value


def _refused_call(part: str, call: Call, why: str) -> NotSerializable:
    return NotSerializable(
        f"expected a call that a database row can hold, but {part} of {call.name} cannot be "
        f"stored: {why}"
    )


def _refused_value(value: object, why: str) -> NotSerializable:
    return NotSerializable(
        f"expected a value that JSON holds, got {shown(value)} that cannot be stored: {why}"
    )


def _raised(error: Exception) -> str:
    return f"looking into it raised {type(error).__name__}: {error}; pass an id or plain values"


def _refuse_other(value: Any) -> NoReturn:
    raise Unserializable(f"it is or holds {shown(value)}; return or report an id, or plain values")


def _unreadable(what: str, error: Exception) -> Unreadable:
    return Unreadable(
        f"expected {what} as this version of tgext.asyncjob writes it, got one that cannot be read "
        f"({type(error).__name__}: {error}); it was changed, or another version wrote it"
    )


# -- signatures


def _signed_text(uid: str, name: str, payload: str) -> str:
    # With the lengths, so that no part of the name can be moved to the payload or the uid.
    return f"{len(uid)} {len(name)} {uid}{name}{payload}"


def _signature(signer: Signer, text: str) -> str:
    return signer.sign(_encoded(text)).decode("ascii")


def _is_signature(signature: Any, signer: Signer, text: Any) -> bool:
    return signer.fits(_encoded(signature), _encoded(text))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
