"""Announces, after the commit, that jobs are available, whatever made them so.

    enqueue, retry, release, rescue, a resumed queue, a due time
        --> threads of this process (Wakeup), other processes (NOTIFY), a message broker (Relay)

Each way is a hint: who is woken claims, and may find nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from .dialect import Dialect
from .notifier import Notifier
from .relay import Relay
from .wakeup import Wakeup


class Announcer:
    """The ways of one process. relay: None: there is no message broker."""

    def __init__(self, wakeup: Wakeup, dialect: Dialect, relay: Relay | None) -> None:
        self._wakeup = wakeup
        self._dialect = dialect
        self._notifier = Notifier(dialect.notify)
        self._relay = relay

    def announce(
        self, names: Collection[str], *, published: Collection[str] | None = None, threads: int = 1
    ) -> None:
        """Announce jobs in these queues; ANY: in some queue, or delayed ones.

        published: the names for the broker, if they are others: delayed jobs are published when
        they are due. threads: how many threads of this process to wake.
        """
        self._wakeup.wake(threads)
        if self._dialect.notifies:
            self._notifier.notify(names)
        if self._relay is not None:
            self._relay.notify(names if published is None else published)

    def close(self) -> None:
        """Send what is left, and end the threads that send."""
        self._notifier.close()
        if self._relay is not None:
            self._relay.close()

    def after_fork(self) -> None:
        """Begin anew in a child process."""
        self._notifier.after_fork()
        if self._relay is not None:
            self._relay.after_fork()
