"""Run a call on another server, over HTTP.

    submit -> a thread -> signed message, POST -> the server's HttpHook -> signed answer -> future

Connections are kept open and reused, at most one for each thread. The work of the call on the other
server is outside of any transaction here: if the connection breaks off, it may have been done, and
the next attempt of a job does it again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import urllib3

from ..errors import CallRefused, ConfigError, ServerUnreachable
from ..serialization.signed_messages import SignedMessages
from .bounds import check_bound
from .chain import Chain
from .http_messages import CONTENT_TYPE, read_answer, write_call

Result = TypeVar("Result")

#: Seconds to wait for a connection.
CONNECT_SECONDS = 10.0

#: Bytes of a refusal that are read and shown.
_MOST_REASON = 500


class HttpExecutor(Executor):
    """Runs each call on a server that has an HttpHook.

    server: ``host:port``, or a URL with its scheme. path: the path of the hook.
    secret: the hook's. timeout: seconds to wait for an answer after the call was sent; None: no
    limit. max_workers: calls at the same time. max_bytes: of an answer; a longer one is a
    ServerUnreachable.
    Raises ConfigError for a server that is no address, an empty secret, and bounds that are not
    above 0.
    """

    def __init__(
        self,
        server: str,
        path: str,
        secret: str,
        *,
        timeout: float | None = 300.0,
        max_workers: int = 8,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        check_bound("max_workers", max_workers)
        check_bound("max_bytes", max_bytes)
        if timeout is not None:
            check_bound("timeout", timeout)
        self._calls = SignedMessages(secret, "call")
        self._answers = SignedMessages(secret, "answer")
        self._address = (server if "://" in server else f"http://{server}").rstrip("/")
        self._max_bytes = max_bytes
        if not self._address.startswith(("http://", "https://")):
            raise _no_address(server)
        try:
            prefix = urllib3.util.parse_url(self._address).path or ""
            self._path = f"{prefix}/{path.lstrip('/')}"
            self._connections = urllib3.connection_from_url(
                self._address,
                maxsize=max_workers,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=timeout),
                # Only before anything was sent: a call must not be made twice.
                retries=urllib3.Retry(connect=1, read=False, redirect=False, other=False),
            )
        except (urllib3.exceptions.HTTPError, ValueError):
            raise _no_address(server) from None
        self._threads = ThreadPoolExecutor(max_workers, thread_name_prefix="asyncjob-http")

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run the call on the server.

        Its future may also raise NotSerializable for a call or result that cannot be sent,
        CallRefused, ServerUnreachable, and RemoteError for an exception that cannot be sent.
        Raises RuntimeError after ``shutdown``.
        """
        chain = fn if isinstance(fn, Chain) and not (args or kwargs) else None
        return self._threads.submit(self._send, chain or Chain(fn).call(args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls. wait: until the submitted ones have ended, and disconnect."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._connections.close()

    def _send(self, chain: Chain) -> Any:
        number = secrets.token_hex(16)
        message = write_call(self._calls, chain, number, time.time())
        answer = self._post(message)
        return read_answer(self._answers, answer, number)

    def _post(self, message: bytes) -> bytes:
        try:
            response = self._connections.request(
                "POST",
                self._path,
                body=message,
                headers={"Content-Type": CONTENT_TYPE},
                preload_content=False,
            )
            with response:
                return self._content_of(response)
        except urllib3.exceptions.HTTPError as error:
            sent = "it may have run" if _was_sent(error) else "it did not run"
            raise ServerUnreachable(
                f"expected an answer of {self._address} at {self._path}, got none to the call, and "
                f"{sent}: {error}"
            ) from error

    def _content_of(self, response: urllib3.BaseHTTPResponse) -> bytes:
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if response.status == 200 and kind == CONTENT_TYPE:
            content = response.read(self._max_bytes + 1)
            if len(content) <= self._max_bytes:
                return content
            raise ServerUnreachable(
                f"expected an answer of {self._max_bytes} bytes at the most, got a longer one, and "
                "the call has run; return less, or raise max_bytes"
            )
        reason = response.read(_MOST_REASON).decode("utf-8", "replace").strip()
        if response.status >= 500 or response.status == 200:
            raise ServerUnreachable(
                f"expected an answer of the hook at {self._address}, {self._path}, got status "
                f"{response.status} of another program, and the call may have run: {reason}"
            )
        raise CallRefused(response.status, reason)


def _no_address(server: str) -> ConfigError:
    return ConfigError(f"expected a server as host:port or http://host:port, got {server!r}")


def _was_sent(error: urllib3.exceptions.HTTPError) -> bool:
    reason = getattr(error, "reason", error)
    return not isinstance(
        reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    )
