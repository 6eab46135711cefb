"""Converts jobs to rows, and rows to jobs."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Row

from ...call import Call
from ...errors import AsyncJobError, CallableMissing, NotSerializable, Unreadable
from ...job import (
    DEFAULT_OPTIONS,
    MESSAGE_LENGTH,
    NO_PROGRESS,
    Claim,
    Job,
    JobId,
    Progress,
    Snapshot,
    TaskError,
    TaskOptions,
)
from ...serialization import CallSerializer, SerializedCall
from ...task_result import NotKept
from ..brief import user_of
from . import states
from .sizes import check_size, log_text, why_too_large
from .tables import instant, listed

log = logging.getLogger(__name__)

#: Stands for an option that a row cannot hold, a callable ``backoff`` or an executor object: for
#: that of the task in the process that runs the job.
_TASKS_OWN = "the task's"

_PLAIN_OPTIONS = ("takes_context", "max_attempts", "timeout", "backoff", "executor")

#: The other values of these options, which a row can hold.
_HOLDABLE = {"backoff": "seconds", "executor": "the name of one"}

#: Begins the text that is stored for a result that could not be kept; no JSON begins with it.
_NOT_KEPT = "!"

#: The columns that a claim reads.
CLAIMED = (
    "number", "uid", "rank", "queue_name", "due_at", "lease", "worker_id", "attempts", "budget",
    "crashes", "suspect", "name", "payload", "signature", "options", "context",
)  # fmt: skip


class UnopenedCall:
    """A stored call whose arguments are read at their first access; its name is there at once.

    So a page that polls the status of a job imports and unpickles nothing.
    """

    def __init__(
        self, name: str, load: Callable[[], Call], row: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        #: the row of a job that is about to be enqueued
        self.row = row
        self._open = load
        self._call: Call | None = None

    def __eq__(self, other: object) -> bool:
        opened = other._opened() if isinstance(other, UnopenedCall) else other
        return bool(self._opened() == opened)

    __hash__ = None  # type: ignore[assignment]

    def _opened(self) -> Call:
        if self._call is None:
            self._call = self._open()
        return self._call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._opened(), name)


class Rows:
    """Converts with one secret. max_crashes: deaths of workers after which a job has FAILED.

    most_bytes: returns the most bytes of one statement; None: not known yet. identity: returns
    that of the tables; None: they have none.
    """

    def __init__(
        self,
        serializer: CallSerializer,
        max_crashes: int,
        most_bytes: Callable[[], int | None] = lambda: None,
        identity: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.serializer = serializer
        self._identity = identity
        self._max_crashes = max_crashes
        self._most_bytes = most_bytes

    def prepared(self, job: Job) -> Job:
        """Return the job with its call in serialized form. Raises NotSerializable."""
        row = self.of_job(job)
        check_size(row["name"], row, self._most_bytes())
        serialized = SerializedCall(row["name"], row["payload"], row["signature"])
        deciding = _deciding(row)
        load = partial(self._load, job.uid, serialized, deciding, job.options)
        call: Any = UnopenedCall(row["name"], load, row)
        return job._replace(call=call)

    def of_job(self, job: Job) -> dict[str, Any]:
        """Return the row of a new job, without the instants, which the database sets. Raises
        NotSerializable."""
        call: Any = job.call
        if type(call) is UnopenedCall and call.row is not None:
            return dict(call.row)
        after, context = job.run_after, job.context
        row: dict[str, Any] = {
            "uid": job.uid,
            "state": states.SCHEDULED if after else states.AVAILABLE,
            "rank": -job.options.priority,
            "queue_name": job.options.queue_name,
            "due_at": after.timestamp() if isinstance(after, datetime) else None,
            "budget": job.options.max_attempts,
            "options": _options_text(job.options),
            "context": None if context is None else json.dumps(dict(context)),
            "enqueued_by": listed(user_of(context)),
        }
        serialized = self.serializer.dump(job.uid, job.call, bound=self._bound(_deciding(row)))
        self._check_options(job.options, serialized)
        row["name"], row["payload"], row["signature"] = serialized
        row["task_name"] = listed(serialized.name)
        return row

    def _check_options(self, options: TaskOptions, serialized: SerializedCall) -> None:
        if options is DEFAULT_OPTIONS:
            return
        for name in _not_in_rows(options):
            task = self.serializer.task_of(serialized)
            if task is None or getattr(task, name) is not getattr(options, name):
                raise NotSerializable(
                    f"{name}: expected a value that a database row can hold, got an object of this "
                    f"process; declare it at {serialized.name}, by @task({name}=...), where a "
                    f"worker finds it, or give {_HOLDABLE[name]}"
                )

    def _bound(self, deciding: _Deciding) -> str:
        """Return the digest that a signature covers beside the call."""
        return _digest(self._identity(), deciding) if self.serializer.signs else ""

    def _load(
        self, uid: str, serialized: SerializedCall, deciding: _Deciding, options: TaskOptions
    ) -> Call:
        implied = int(options.takes_context)
        bound = self._bound(deciding)
        return self.serializer.load(uid, serialized, bound=bound, implied=implied)

    def job(self, row: Row[Any], *, opened: bool) -> Job:
        """Read the job of a row. opened: read its call at once, which raises as
        ``CallSerializer.load`` does."""
        options = self._options(row) if opened else self.options(row)
        serialized = SerializedCall(row.name, row.payload, row.signature)
        deciding = _Deciding(row.queue_name, row.rank, row.options, row.context)
        load = partial(self._load, row.uid, serialized, deciding, options)
        call: Any = load() if opened else UnopenedCall(row.name, load)
        if opened and row.options and _TASKS_OWN in row.options:
            options = self._with_tasks_own(options, json.loads(row.options), serialized)
        context = _context(row, strict=opened)
        run_after = None if row.due_at is None else _instant(row.due_at)
        return Job(JobId(row.uid), call, options, run_after, context)

    def _with_tasks_own(
        self, options: TaskOptions, found: dict[str, Any], serialized: SerializedCall
    ) -> TaskOptions:
        task, own = self.serializer.task_of(serialized), _tasks_own(found)
        if own and task is None:
            raise CallableMissing(
                serialized.name,
                f"it is no longer a task, and the job needs its {' and '.join(own)}",
            )
        return replace(options, **{name: getattr(task, name) for name in own})

    def claim(self, row: Row[Any], *, opened: bool) -> Claim:
        """Read the claim on a row that was claimed; raises as ``job`` does."""
        return Claim(
            self.job(row, opened=opened),
            row.lease,
            row.attempts,
            row.budget - row.attempts,
            self._max_crashes - row.crashes - 1,
            row.worker_id,
        )

    def options(self, row: Row[Any]) -> TaskOptions:
        """Read the options of a row; the default ones if they cannot be read, so that such a job
        can be shown and ended."""
        try:
            return self._options(row)
        except Unreadable:
            return DEFAULT_OPTIONS

    def _options(self, row: Row[Any]) -> TaskOptions:
        try:
            found = json.loads(row.options) if row.options else {}
            for name in _tasks_own(found):
                del found[name]
            if not found and row.rank == 0 and row.queue_name == DEFAULT_OPTIONS.queue_name:
                return DEFAULT_OPTIONS
            return TaskOptions(priority=-row.rank, queue_name=row.queue_name, **found)
        except Exception as error:  # noqa: BLE001 - the text may be anything
            raise _unreadable("options", error) from None

    def snapshot(
        self, row: Row[Any], errors: list[TaskError], progress: Progress = NO_PROGRESS
    ) -> Snapshot:
        """Read the state of the job of a row."""
        return Snapshot(
            job=self.job(row, opened=False),
            status=states.STATUS_OF[row.state],
            enqueued_at=instant(row.enqueued_at),
            run_at=_instant(row.due_at) if row.state == states.SCHEDULED else None,
            started_at=_instant(row.started_at),
            last_attempted_at=_instant(row.last_attempted_at),
            finished_at=_instant(row.finished_at),
            attempts=row.attempts,
            errors=tuple(errors),
            result=self._result(row.result),
            progress=progress,
            log=tuple(json.loads(row.log)) if row.log else (),
            worker_id=row.worker_id,
            crashes=row.crashes,
        )

    def result_text(self, uid: str, result: Any) -> str | None:
        """Return the text to store for a return value, in ASCII; never raises, since the work is
        done."""
        if result is None:
            return None
        why = result.why if isinstance(result, NotKept) else None
        if why is None:
            try:
                text = self.serializer.dump_value(result)
                why = why_too_large([text], self._most_bytes())
                if why is None:
                    return text
            except NotSerializable as error:
                why = str(error)
            except Exception as error:  # noqa: BLE001 - the message of a value's own error
                why = f"looking into it raised {type(error).__name__}"
            log.warning("job=%s succeeded, return value not kept: %s", uid, why)
        return _NOT_KEPT + json.dumps(why[:MESSAGE_LENGTH])

    def log_text(self, lines: tuple[str, ...]) -> str | None:
        """Return the text to store for an attempt's log lines, in ASCII; None for no lines."""
        return log_text(lines, self._most_bytes())

    def _result(self, text: str | None) -> Any:
        if text is None:
            return None
        if text.startswith(_NOT_KEPT):
            return NotKept(_why(text.removeprefix(_NOT_KEPT)))
        try:
            return self.serializer.load_value(text)
        except AsyncJobError as error:
            return NotKept(str(error))


class _Deciding(NamedTuple):
    """What else decides what a job does, and for whom."""

    queue_name: str
    rank: int
    options: str | None
    context: str | None


def _deciding(row: Mapping[Any, Any]) -> _Deciding:
    return _Deciding(row["queue_name"], row["rank"], row["options"], row["context"])


@functools.lru_cache(maxsize=256)
def _digest(identity: str | None, deciding: _Deciding) -> str:
    text = json.dumps([identity, *deciding])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _why(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text  # as versions before this one stored it


def _options_text(options: TaskOptions) -> str | None:
    """The options that have no column and differ from the default, as JSON."""
    if options is DEFAULT_OPTIONS:
        return None
    found = {
        name: getattr(options, name)
        for name in _PLAIN_OPTIONS
        if getattr(options, name) != getattr(DEFAULT_OPTIONS, name)
    }
    found.update(dict.fromkeys(_not_in_rows(options), _TASKS_OWN))
    return json.dumps(found) if found else None


def _not_in_rows(options: TaskOptions) -> list[str]:
    """The names of the options that cannot be stored as text."""
    found = ["backoff"] if callable(options.backoff) else []
    return found if isinstance(options.executor, str) else [*found, "executor"]


def _context(row: Row[Any], *, strict: bool) -> dict[str, Any] | None:
    try:
        return None if row.context is None else dict(json.loads(row.context))
    except (ValueError, TypeError) as error:
        if strict:
            raise _unreadable("the context", error) from None
        return None


def _unreadable(what: str, error: Exception) -> Unreadable:
    return Unreadable(
        f"expected {what} of a job as this package stores them, got a text that cannot be read "
        f"({type(error).__name__}: {error}): the row was changed; enqueue the job again"
    )


def _tasks_own(found: dict[str, Any]) -> list[str]:
    return [name for name, value in found.items() if value == _TASKS_OWN]


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else instant(seconds)
