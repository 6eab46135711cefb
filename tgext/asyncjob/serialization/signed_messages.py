"""Calls and results as signed bytes for another server.

    signature | "." | head: one line of JSON | body: pickled

The head has what the reader must check before it unpickles the body: the time, a number, the
target of the call. ``read`` verifies the signature and unpickles nothing; ``unpickled`` reads a
body, after the head was checked. A message of one kind is not accepted as one of another kind.
"""

from __future__ import annotations

import importlib
import json
import pickle
from io import BytesIO
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from ..call import is_orm_instance
from ..errors import BadSignature, CallableMissing, ConfigError, NotSerializable, Unreadable
from .references import Unserializable, find_itself, importable, module_named, path_to
from .signer import Signer
from .values import shown

__all__ = ["SignedMessage", "SignedMessages", "pickled", "target_at", "target_path", "unpickled"]

#: The newest protocol of every Python that is supported.
_PROTOCOL = 5


class SignedMessage(NamedTuple):
    """The signed content; the body is not unpickled yet."""

    head: dict[str, Any]
    body: bytes


class SignedMessages:
    """Writes and reads messages of one kind, under one secret."""

    def __init__(self, secret: str, kind: str) -> None:
        if not isinstance(secret, str) or not secret.strip():
            raise ConfigError(
                "secret: expected a secret word that both servers share, got none or an empty one; "
                "give one that cannot be guessed: with it one can run code on the other server"
            )
        self._signer = Signer(secret, f"letter.{kind}")

    def write(self, head: dict[str, Any], body: bytes) -> bytes:
        """Return a message. head: values that JSON can represent."""
        content = json.dumps(head).encode("ascii") + b"\n" + body
        return self._signer.sign(content) + b"." + content

    def read(self, text: bytes) -> SignedMessage:
        """Return the signed content, with its body not unpickled.

        Raises BadSignature, and Unreadable if the signed content is not a message.
        """
        signature, _, content = text.partition(b".")
        if not self._signer.fits(signature, content):
            raise BadSignature(
                "expected a message signed with the secret of this server, got one that is not, or "
                "that was changed or cut off; it was not opened"
            )
        line, _, body = content.partition(b"\n")
        try:
            head = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"expected a head of JSON, got none: {error}") from None
        if not isinstance(head, dict):
            raise Unreadable(f"expected a head with names, got a {type(head).__name__}")
        return SignedMessage(head, body)


# -- targets


def target_path(target: Any) -> str | None:
    """Return the path by which the other server finds *target*; None if it must be pickled.

    Raises NotSerializable for an object of a script, which no other server can import.
    """
    try:
        if isinstance(target, ModuleType):
            return importable(target.__name__, target) + ":"
        return path_to(target)
    except Unserializable as why:
        raise NotSerializable(f"expected a target that another server finds, but {why}") from None


def target_at(path: str) -> Any:
    """Import the object at a path. Raises ModuleMissing and CallableMissing."""
    module, _, names = path.partition(":")
    return find_itself(path) if names else module_named(module, path)


# -- bodies


class _Pickler(pickle.Pickler):
    """Writes modules by their name; refuses objects that the other server would not find."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, ModuleType):
            return importlib.import_module, (importable(value.__name__, value),)
        if isinstance(value, (type, FunctionType)):
            importable(value.__module__, value)
        return NotImplemented


class _ArgumentPickler(_Pickler):
    """Also refuses database objects, which arrive detached from their session."""

    def reducer_override(self, value: Any) -> Any:
        if is_orm_instance(value):
            raise Unserializable(
                f"it holds {shown(value)}, which arrives without its session: pass its id and "
                "query it there"
            )
        return super().reducer_override(value)


def pickled(value: Any, *, what: str, arguments: bool = False) -> bytes:
    """Return *value* pickled. what: its name in the message. arguments: refuse database objects.

    Raises NotSerializable.
    """
    buffer = BytesIO()
    try:
        (_ArgumentPickler if arguments else _Pickler)(buffer, _PROTOCOL).dump(value)
    except Exception as error:  # code of the value's class runs, and may raise anything
        why = (
            str(error) if isinstance(error, Unserializable) else f"{type(error).__name__}: {error}"
        )
        raise NotSerializable(
            f"expected {what} that can be pickled, got one that cannot be ({why}); pass or return "
            "an id, or plain values"
        ) from error
    return buffer.getvalue()


def unpickled(body: bytes) -> Any:
    """Unpickle the body of a message whose signature was verified.

    Raises CallableMissing, and Unreadable after any other error.
    """
    try:
        return pickle.loads(body)
    except (ImportError, AttributeError) as error:
        raise CallableMissing("a part of a pickled value", str(error)) from error
    except Exception as error:
        raise Unreadable(
            f"expected a body that this server can open, got {type(error).__name__}: {error}; both "
            "servers need the same classes, in the same modules"
        ) from error
