"""The server side of HttpExecutor: a WSGI application that makes the calls it is sent.

    body -> length -> signature -> age -> allow-list -> number -> [unpickle] -> scope -> call

Each step before the unpickling may refuse the call with an HTTP status of its own.
A caller that knows the secret can run any code here: the allow-list keeps honest callers to the
purpose of the hook, and does not protect against one that can sign.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Any

from ..current import current_queue, open_queues, queue_var
from ..errors import BadSignature, Unreadable
from ..processes.forked import call_here
from ..serialization.signed_messages import SignedMessage, SignedMessages
from .bounds import check_bound
from .http_messages import (
    CONTENT_TYPE,
    CallHead,
    NotAllowed,
    open_call,
    write_failure,
    write_result,
)
from .seen_calls import SeenCalls

log = logging.getLogger(__name__)

Scope = Callable[[], AbstractContextManager[Any]]

#: Called with the number of a call and for how many seconds it could be sent again; returns True
#: to the first caller only.
Claim = Callable[[str, float], bool]

#: Status, content type and body.
Answer = tuple[HTTPStatus, str, bytes]


class _Refused(Exception):
    """Raised inside this module; its arguments are an HTTP status and a reason for the caller."""


class HttpHook:
    """Makes calls that are signed, fresh, new and allowed, and answers with their results.

    secret: shared with the callers. allow: dotted names, or their first components, that may be
    called; None: any. max_age: seconds since a call was signed; the clocks may differ by as much.
    max_bytes: of one call. claim: decides whether a call is new, for hooks on several machines;
    None: files in the temporary folder, for all processes of this user on this machine.
    scope: returns a context manager around each call, which commits, or aborts if the call raises;
    None: ``session_scope()`` of the current job queue, if there is one.
    Raises ConfigError for an empty secret and for bounds that are not above 0.
    """

    def __init__(  # noqa: PLR0913 - the first four are those of every hook
        self,
        secret: str,
        allow: Iterable[str] | None = None,
        max_age: float = 30.0,
        max_bytes: int = 1_048_576,
        *,
        scope: Scope | None = None,
        claim: Claim | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_bound("max_age", max_age)
        check_bound("max_bytes", max_bytes)
        self._calls = SignedMessages(secret, "call")
        self._answers = SignedMessages(secret, "answer")
        self._allow = None if allow is None else frozenset([allow] if type(allow) is str else allow)
        self._max_age, self._max_bytes = max_age, max_bytes
        self._scope = scope or _scope_of_queue
        self._clock = clock
        self._claim = claim
        self._seen = SeenCalls(secret, max_age)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Serve one request by the WSGI protocol."""
        status, kind, body = self.answer(
            environ["REQUEST_METHOD"], environ.get("CONTENT_LENGTH"), environ["wsgi.input"].read
        )
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "POST"))
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    def answer(self, method: str, length: str | None, read: Callable[[int], bytes]) -> Answer:
        """Make one call and return status, content type and body, for any kind of server.

        length: the Content-Length of the request; None: it has none. read: returns so many bytes of
        the body.
        """
        try:
            message = self._calls.read(self._body(method, length, read))
            head = self._accepted(message)
        except _Refused as refusal:
            status, reason = refusal.args
        except BadSignature as error:
            status, reason = HTTPStatus.UNAUTHORIZED, str(error)
        except Unreadable as error:
            status, reason = HTTPStatus.BAD_REQUEST, str(error)
        else:
            return self._call(head, message.body)
        return _refusal(status, reason)

    # -- checks

    def _body(self, method: str, length: str | None, read: Callable[[int], bytes]) -> bytes:
        if method != "POST":
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"expected a POST, got a {method}")
        if not length:
            raise _Refused(
                HTTPStatus.LENGTH_REQUIRED, "expected a body with its Content-Length, got none"
            )
        if not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected a number as Content-Length")
        if len(length) > 18 or int(length) > self._max_bytes:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"expected a call of {self._max_bytes} bytes at the most, got {length[:18]}; pass "
                "less, or raise max_bytes of the hook",
            )
        try:
            body = read(int(length))
        except OSError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"the body broke off: {error}") from None
        if len(body) != int(length):
            raise _Refused(
                HTTPStatus.BAD_REQUEST,
                f"expected {length} bytes, got {len(body)}: the body broke off",
            )
        return body

    def _accepted(self, message: SignedMessage) -> CallHead:
        head = CallHead.of(message.head)
        now = self._clock()
        if not abs(now - head.at) <= self._max_age:
            raise _Refused(
                HTTPStatus.UNAUTHORIZED,
                f"expected a call that was signed {self._max_age:g} s ago at the most, got one of "
                f"{now - head.at:.0f} s ago; compare the clocks of both servers",
            )
        if not self._allows(head.target):
            raise _not_allowed(head.target)
        # Last, so that no file is made for a call that is refused for another reason.
        if not self._is_new(head, now):
            raise _Refused(HTTPStatus.CONFLICT, "expected a new call, got one that was made before")
        return head

    def _is_new(self, head: CallHead, now: float) -> bool:
        if self._claim is not None:
            return bool(self._claim(head.number, head.at + self._max_age - now))
        try:
            return self._seen.is_new(head.number, head.at, now)
        except OSError as error:
            log.error("the numbers of calls cannot be stored, so no call is made: %s", error)
            raise _Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "expected a temporary folder of this server's user to keep the numbers of calls, "
                "got none, and the call did not run; see the server's log",
            ) from None

    def _allows(self, name: str) -> bool:
        if self._allow is None:
            return True
        parts = name.split(".")
        return any(".".join(parts[:end]) in self._allow for end in range(1, len(parts) + 1))

    # -- the call

    def _call(self, head: CallHead, body: bytes) -> Answer:
        began = time.monotonic()
        try:
            chain = open_call(head, body, self._allows)
            with self._scope():
                # Inside the scope: lazy attributes of a result need its session.
                answer = write_result(self._answers, head.number, call_here(chain, (), {}))
            how = "succeeded"
        except NotAllowed as refusal:
            return _refusal(*_not_allowed(str(refusal)).args)
        except BaseException as error:  # a SystemExit ends the call, not the server
            if isinstance(error, KeyboardInterrupt):
                raise
            answer = write_failure(self._answers, head.number, error)
            how = f"failed with {type(error).__name__}"
        log.info("call=%s %s after %.3fs", head.target, how, time.monotonic() - began)
        return HTTPStatus.OK, CONTENT_TYPE, answer


def _not_allowed(target: str) -> _Refused:
    return _Refused(
        HTTPStatus.FORBIDDEN, f"expected a target on the allow-list of the hook, got {target!r}"
    )


def _refusal(status: HTTPStatus, reason: str) -> Answer:
    log.warning("refused a call with status %d: %s", status, reason)
    return status, "text/plain; charset=utf-8", f"{reason}\n".encode()


def _scope_of_queue() -> AbstractContextManager[Any]:
    if queue_var.get() is None and not open_queues:
        return nullcontext()
    return current_queue().session_scope()
