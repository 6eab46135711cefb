"""Background jobs for TurboGears2 and any other WSGI application.

    uid = asyncjob_perform(make_thumbnails, album_id)      # in a controller: returns at once
    asyncjob_set_progress(done, total=len(pictures))       # in the job
    asyncjob_result(uid)                                   # in the page that shows the bar

``docs/`` is the documentation; ``ARCHITECTURE.md`` describes the modules behind these names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .api import (
    asyncjob_get_progress,
    asyncjob_mine,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_running_uid,
    asyncjob_session,
    asyncjob_set_progress,
    asyncjob_timed_query,
    asyncjob_track,
)
from .errors import (
    AsyncJobError,
    BadCall,
    BadSignature,
    CallRefused,
    ConfigError,
    JobCancelled,
    JobTimeout,
    MissingExtra,
    NotCommitted,
    NotInJob,
    NotSerializable,
    QueueClosed,
    QueueFull,
    RemoteError,
    ServerUnreachable,
    UnknownJob,
    WorkerCrashed,
)
from .job import Progress, TaskError, TaskResultStatus
from .keys import shared
from .queue import JobQueue
from .task import Task, TaskContext, task
from .task_result import TaskResult

if TYPE_CHECKING:
    from .turbogears import background as background
    from .turbogears import plugme as plugme
    from .turbogears import start_async_worker as start_async_worker
    from .web import asyncjob_progress as asyncjob_progress

__all__ = [
    "AsyncJobError",
    "BadCall",
    "BadSignature",
    "CallRefused",
    "ConfigError",
    "JobCancelled",
    "JobQueue",
    "JobTimeout",
    "MissingExtra",
    "NotCommitted",
    "NotInJob",
    "NotSerializable",
    "Progress",
    "QueueClosed",
    "QueueFull",
    "RemoteError",
    "ServerUnreachable",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultStatus",
    "UnknownJob",
    "WorkerCrashed",
    "asyncjob_get_progress",
    "asyncjob_mine",
    "asyncjob_perform",
    "asyncjob_result",
    "asyncjob_running_uid",
    "asyncjob_session",
    "asyncjob_set_progress",
    "asyncjob_timed_query",
    "asyncjob_track",
    "shared",
    "task",
]

#: By name, the module that has it. Not in ``__all__``: a star import must not need their packages.
_OF_EXTRAS = {
    "background": "turbogears",
    "plugme": "turbogears",
    "start_async_worker": "turbogears",
    "asyncjob_progress": "web",
}


def __getattr__(name: str) -> Any:
    """Load what needs an extra on first use; the rest runs without it."""
    if name not in _OF_EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra = _OF_EXTRAS[name]
    try:
        found = getattr(importlib.import_module(f".{extra}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("tg", "webob"):
            raise
        raise MissingExtra(f"tgext.asyncjob.{name}", extra) from error
    globals()[name] = found
    return found
