"""A progress tracker of the application's own, kept from doing harm.

It may be slow, or raise: neither changes what becomes of a job.
"""

from __future__ import annotations

import logging
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
        if self.tracker is not None:
            try:
                self.tracker.track(uid)
            except Exception:
                log.exception("job=%s the progress tracker could not begin to track it", uid)

    def report(self, uid: str, progress: Progress) -> None:
        """Hand on what a job reports."""
        if self.tracker is not None:
            try:
                self.tracker.set_progress(uid, progress.value, progress.data)
            except Exception:
                log.exception("job=%s the progress tracker could not set its progress", uid)

    def end(self, uid: str) -> None:
        """Tell of a job that has ended."""
        if self.tracker is not None:
            try:
                self.tracker.remove(uid)
            except Exception:
                log.exception("job=%s the progress tracker could not remove it", uid)
