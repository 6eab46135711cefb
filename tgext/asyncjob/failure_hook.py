"""The function of an application that is called when a job has finally failed.

It is called by a job of its own, which the failure itself enqueues: in the same transaction, so
that no failure is forgotten, whatever dies meanwhile. So it is called in a worker, at least once,
and its time is bounded as that of any job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from .call import Call
from .current import current_queue
from .errors import ConfigError, UnknownJob
from .job import FAILED
from .task_options import TaskOptions
from .task_result import TaskResult

log = logging.getLogger(__name__)

#: What is called with the TaskResult of a job that has failed.
Hook = Callable[[TaskResult], Any]

#: How often it is tried, and how many seconds one call of it may take.
ATTEMPTS, TIMEOUT_SECONDS = 5, 60


class FailureHook:
    """The hook of one queue. path: ``module:callable``, imported at the first failure; None: there
    is none, unless ``function`` is set."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self.function: Hook | None = None

    def call_after(self, uid: str, name: str, queue_name: str) -> tuple[Call, TaskOptions] | None:
        """Return what is to be enqueued with the failure of a job; None: nothing.

        name, queue_name: those of the job: workers of its queue call the hook, and the failure of
        such a call is not told again.
        """
        is_set = self.function is not None or self._path is not None
        if not is_set or name == TELLING:
            return None
        options = TaskOptions(queue_name=queue_name, max_attempts=ATTEMPTS, timeout=TIMEOUT_SECONDS)
        return Call(tell_failure, (uid,), None), options

    def call(self, result: TaskResult) -> None:
        """Call the hook. Raises what it raises; ConfigError if it cannot be imported."""
        if self.function is None and self._path is not None:
            self.function = _imported(self._path)
        if self.function is None:
            log.warning(
                "job=%s has failed, and this process has no on_failure to tell it: declare it "
                "where each worker imports it, or set asyncjob.on_failure", result.id,
            )  # fmt: skip
            return
        self.function(result)


def tell_failure(uid: str) -> None:
    """Call the hook of the current queue for the job *uid*; a job's function."""
    queue = current_queue()
    try:
        result = queue.result(uid)
    except UnknownJob:
        log.warning("job=%s has failed, and was removed before on_failure could be told", uid)
        return
    if result.status is FAILED:  # it may have been retried meanwhile
        queue.failure_hook.call(result)


#: The name of such a job.
TELLING = f"{tell_failure.__module__}.{tell_failure.__qualname__}"


def _imported(path: str) -> Hook:
    try:
        found: Hook = resolve_name(path)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "asyncjob.on_failure: expected the path of a function, as myapp.jobs:on_failure, got "
            f"{path}, which cannot be imported: {error}"
        ) from error
    return found
