"""Signed tokens: what a page was rendered with comes back unchanged, from the same user.

The key is ``asyncjob.secret``. Without it, a process that alone has its jobs signs with a random
key of its own; processes that share a database could not read the tokens of each other.
"""

from __future__ import annotations

import json
import os

from ..errors import ConfigError
from ..queue import JobQueue
from ..serialization.signer import Signer

#: Another process has another one, and other jobs.
_KEY_OF_THIS_PROCESS = os.urandom(32).hex()


class Tokens:
    """Signs for one queue."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def sign(self, purpose: str, *parts: str | None) -> str:
        """Return the token of *parts* for one purpose.

        Raises ConfigError without a secret on a backend that processes share.
        """
        key = self._key
        if key is None:
            raise ConfigError(
                "asyncjob_progress with cancel or then: expected asyncjob.secret, which signs what "
                "comes back from the page, got none; set it to the same text for all processes"
            )
        return Signer(key, "web").sign(_content(purpose, parts)).decode("ascii")

    def fits(self, token: str | None, purpose: str, *parts: str | None) -> bool:
        """Whether *token* is that of *parts*; False without a token or a key."""
        key = self._key
        if key is None or not token or not token.isascii():
            return False
        return Signer(key, "web").fits(token.encode("ascii"), _content(purpose, parts))

    @property
    def _key(self) -> str | None:
        secret = self._queue.options.secret
        return secret or (None if self._queue.backend.is_shared else _KEY_OF_THIS_PROCESS)


def _content(purpose: str, parts: tuple[str | None, ...]) -> bytes:
    # As JSON: no part can be moved into the next one.
    return json.dumps([purpose, *parts]).encode("ascii")
