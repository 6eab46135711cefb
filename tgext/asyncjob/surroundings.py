"""What every attempt of one queue works with: handed down by the queue, made of lower rooms."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from .backend import ClaimingBackend
from .current import CurrentQueue
from .progress import Tracked
from .scope import Scope


class MarkedSessions(Protocol):
    """The application's sessions, where they work on the database that the jobs are in."""

    def is_used(self) -> bool: ...
    def owns(self, session: Any) -> bool: ...
    def connection(self) -> Any: ...


@dataclass(frozen=True)
class Surroundings:
    """What every attempt of one queue works with."""

    queue: CurrentQueue
    backend: ClaimingBackend
    scope: Scope
    #: a context manager around the call, given what was captured at the enqueue
    surround: Callable[[dict[str, Any]], AbstractContextManager[Any]] | None = None
    session: Any = None  #: the application's, None where it has none
    marked: MarkedSessions | None = None  #: whose commit carries the mark; None: no session's
    tracked: Tracked = field(default_factory=lambda: Tracked(None))
    jitter: Callable[[], float] = random.random
    #: calls that were seen to commit in the middle, each worth one warning
    commits_in_parts: set[str] = field(default_factory=set)
