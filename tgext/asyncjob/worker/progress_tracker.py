"""Call the application's progress tracker, and log what it raises.

A tracker that raises does not change the outcome of a job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from ..amount import is_int
from ..job import Progress

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What ``progress_tracker=`` takes: an object as tgext.asyncjob 0.2 had it."""

    def track(self, uid: str) -> None: ...
    def set_progress(self, uid: str, value: int, data: Any) -> None: ...
    def get_progress(self, uid: str) -> Any: ...
    def remove(self, uid: str) -> None: ...


class GuardedTracker:
    """Calls a tracker when a job is enqueued, reports and ends. tracker: None: calls nothing."""

    def __init__(self, tracker: Tracker | None) -> None:
        self.tracker = tracker

    def begin(self, uid: str) -> None:
        """Call ``track`` for a job that was enqueued."""
        self._guard(lambda tracker: tracker.track(uid), uid, "begin to track it")

    def report(self, uid: str, progress: Progress) -> None:
        """Call ``set_progress`` with the progress of a job."""
        value, data = progress.value, progress.data
        self._guard(lambda tracker: tracker.set_progress(uid, value, data), uid, "set its progress")

    def shown(self, uid: str) -> tuple[int, Any]:
        """Return value and data of the last report, for a page, which a tracker must not break:
        (-1, None) without one, or where it raises or tells anything else."""
        tracker, nothing = self.tracker, (-1, None)
        try:
            found = None if tracker is None else tracker.get_progress(uid)
            value, data = nothing if found is None else found
        except Exception as error:  # noqa: BLE001 - of the application; a bar asks twice a second
            log.info("job=%s the progress tracker could not tell its progress: %r", uid, error)
            return nothing
        return (value, data) if is_int(value) and value.bit_length() < 64 else nothing

    def end(self, uid: str) -> None:
        """Call ``remove`` for a job that has ended."""
        self._guard(lambda tracker: tracker.remove(uid), uid, "remove it")

    def _guard(self, call: Callable[[Tracker], object], uid: str, what: str) -> None:
        if self.tracker is not None:
            try:
                call(self.tracker)
            except Exception:
                log.exception("job=%s the progress tracker could not %s", uid, what)
