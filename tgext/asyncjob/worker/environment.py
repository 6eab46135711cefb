"""The parts that all attempts of one queue share; the queue makes them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..backends.base import Backend
from ..job import JobId
from ..transactions.scope import Scope
from .progress_tracker import GuardedTracker

if TYPE_CHECKING:  # the first is a layer above, the other needs SQLAlchemy
    from ..queue import JobQueue
    from ..transactions.sessions import Sessions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttemptEnvironment:
    """The parts that all attempts of one queue share."""

    queue: JobQueue
    backend: Backend
    scope: Scope
    #: returns a context manager around the call, of the context captured at the enqueue
    enter_context: Callable[[dict[str, Any]], AbstractContextManager[Any]] | None = None
    session: Any = None  #: the application's scoped_session; None: it has none
    job_sessions: Sessions | None = None  #: whose commit completes a job; None: no session's
    progress_tracker: GuardedTracker = field(default_factory=lambda: GuardedTracker(None))
    #: starts the child processes of attempts (a ``ForkServer``); None: there are none
    fork_server: Any = None
    #: names of calls that have committed before their end; each is warned of once
    commits_in_parts: set[str] = field(default_factory=set)

    def warn_of_parts(self, uid: JobId, name: str) -> None:
        """Warn, once for each call, that the job *uid* has committed before its end."""
        if name not in self.commits_in_parts:
            self.commits_in_parts.add(name)
            log.warning(
                "job=%s call=%s commits before its end: its work so far is kept if the rest fails, "
                "and another attempt starts from the beginning: it has to check what is already "
                "there", uid, name,
            )  # fmt: skip
