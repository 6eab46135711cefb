"""The format of a call and its answer between two servers; both ends use this module.

    call     head: at, number, name, path, attributes   body: object (where it has no path), steps
    answer   head: to, failed                           body: result, or a Failure

The head names what is called, in plain text: it is compared with the allow-list before the body is
unpickled. The body has the steps after that, beginning with the first call or item.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from ..errors import BadSignature, Unreadable
from ..serialization.signed_messages import (
    SignedMessage,
    SignedMessages,
    pickled,
    target_at,
    target_path,
    unpickled,
)
from .chain import Chain, get, name_of
from .remote_errors import Failure

CONTENT_TYPE = "application/x-asyncjob-letter"

#: Whether a dotted name may be called.
Allows = Callable[[str], bool]


class NotAllowed(Exception):
    """Raised inside this module for a target that is not on the list of a hook."""


class CallHead(NamedTuple):
    """The head of a call. It is signed, and its values are still to be checked."""

    at: float  #: when it was written, in seconds since the epoch, by the caller's clock
    number: str  #: unique to the call
    name: str  #: dotted path of the object that the call begins with, or of its class
    path: str | None  #: where that object is imported from; None: it is in the body
    attributes: list[str]  #: the attributes that are taken from it first

    @property
    def target(self) -> str:
        """The dotted name that is compared with an allow-list."""
        return ".".join([self.name, *self.attributes])

    @classmethod
    def of(cls, head: dict[str, Any]) -> CallHead:
        """Return the head of a message; raises Unreadable if it is not that of a call."""
        try:
            at, number, name, path, attributes = (head[field] for field in cls._fields)
        except KeyError as error:
            raise Unreadable(f"expected the head of a call, got one without {error}") from None
        texts = [number, name, *attributes] if isinstance(attributes, list) else [None]
        if type(at) is not float or not all(type(text) is str for text in texts):
            raise Unreadable("expected the head of a call, got one with values of other types")
        if path is not None and (type(path) is not str or _dotted(path) != name):
            raise Unreadable(f"expected the path of {name}, got {path!r}")
        return cls(at, number, name, path, attributes)


def write_call(messages: SignedMessages, chain: Chain, number: str, now: float) -> bytes:
    """Return a call as a message; raises NotSerializable if it cannot be pickled."""
    path = target_path(chain.base)
    name = name_of(chain.base) if path is None else _dotted(path)
    attributes = chain.attributes
    head = CallHead(now, number, name, path, list(attributes))
    content = (None if path is not None else chain.base, chain.steps[len(attributes) :])
    body = pickled(content, what=f"a call of {head.target}", arguments=True)
    return messages.write(head._asdict(), body)


def _dotted(path: str) -> str:
    return path.rstrip(":").replace(":", ".")


def open_call(head: CallHead, body: bytes, allows: Allows) -> Chain:
    """Return the call of a message that was verified and whose target was allowed.

    Raises NotAllowed if the path to the target leads through a module that is not allowed, or if
    the object in the body is not what the head says; ModuleMissing, CallableMissing, Unreadable.
    """
    base = None if head.path is None else target_at(head.path)
    if isinstance(base, ModuleType):
        _check_way(base, head.attributes, allows)
    packed, steps = unpickled(body)
    if head.path is None:
        base = packed
        if name_of(base) != head.name:
            raise NotAllowed(f"an object of {name_of(base)}, which is called {head.name}")
    return Chain(base, (*(("get", name) for name in head.attributes), *steps))


def _check_way(found: Any, attributes: list[str], allows: Allows) -> None:
    # An allow-list with photoalbum must not allow photoalbum.os.system.
    for name in attributes:
        try:
            found = get(found, name)
        except AttributeError:  # raised again when the call is made
            return
        if not isinstance(found, ModuleType):
            return
        if not allows(found.__name__):
            raise NotAllowed(f"the module {found.__name__}")


def write_result(messages: SignedMessages, number: str, value: Any) -> bytes:
    """Return the answer to a call that returned *value*. Raises NotSerializable."""
    return messages.write({"to": number, "failed": False}, pickled(value, what="a result"))


def write_failure(messages: SignedMessages, number: str, error: BaseException) -> bytes:
    """Return the answer to a call that raised *error*."""
    body = pickled(tuple(Failure.of(error)), what="a failure")
    return messages.write({"to": number, "failed": True}, body)


def read_answer(messages: SignedMessages, text: bytes, number: str) -> Any:
    """Return the result of a call, or raise what the call raised.

    Raises BadSignature for an answer that is not signed, or to another call; Unreadable.
    """
    message: SignedMessage = messages.read(text)
    if message.head.get("to") != number:
        raise BadSignature(
            "expected the answer to this call, got one to another; it was not unpickled"
        )
    content = unpickled(message.body)
    if message.head.get("failed"):
        raise Failure(*content).exception()
    return content
