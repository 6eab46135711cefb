"""A progress tracker of the application's own, kept from doing harm.

It may be slow, or raise: neither changes what becomes of a job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from ..job import Progress

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What ``progress_tracker=`` may be: an object as the seed knows it."""

    def track(self, uid: str) -> None: ...
    def set_progress(self, uid: str, value: int, data: Any) -> None: ...
    def get_progress(self, uid: str) -> Any: ...
    def remove(self, uid: str) -> None: ...


class GuardedTracker:
    """Calls a tracker, None for no tracker, at the moments of a job's life."""

    def __init__(self, tracker: Tracker | None) -> None:
        self.tracker = tracker

    def begin(self, uid: str) -> None:
        """Tell of a job that waits from now on."""
        self._guard(lambda tracker: tracker.track(uid), uid, "begin to track it")

    def report(self, uid: str, progress: Progress) -> None:
        """Hand on what a job reports."""
        value, data = progress.value, progress.data
        self._guard(lambda tracker: tracker.set_progress(uid, value, data), uid, "set its progress")

    def end(self, uid: str) -> None:
        """Tell of a job that has ended."""
        self._guard(lambda tracker: tracker.remove(uid), uid, "remove it")

    def _guard(self, call: Callable[[Tracker], object], uid: str, what: str) -> None:
        if self.tracker is not None:
            try:
                call(self.tracker)
            except Exception:
                log.exception("job=%s the progress tracker could not %s", uid, what)
