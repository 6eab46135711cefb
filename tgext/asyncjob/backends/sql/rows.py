"""Converts jobs to rows, and rows to jobs."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Row

from ...call import Call
from ...errors import AsyncJobError, CallableMissing, NotSerializable, Unreadable
from ...job import MESSAGE_LENGTH, NO_PROGRESS, Claim, Job, JobId, Progress, Snapshot, TaskError
from ...policies import Keys
from ...serialization import CallSerializer, SerializedCall
from ...sharing import user_of
from ...task_options import DEFAULT_OPTIONS, TaskOptions
from ...task_result import NotKept
from . import states
from .option_texts import HOLDABLE, TASKS_OWN, not_in_rows, options_text, tasks_own
from .policy_tables import policy_columns
from .sizes import check_size, log_text, why_too_large
from .tables import instant, listed
from .unopened_call import UnopenedCall

log = logging.getLogger(__name__)

#: Begins the text that is stored for a result that could not be kept; no JSON begins with it.
_NOT_KEPT = "!"


class ClaimedRow(NamedTuple):
    """What a claim reads of a row, in its order.

    A tuple of our own, since each access to an attribute of SQLAlchemy's rows takes a microsecond.
    """

    rank: int
    number: int
    uid: str
    queue_name: str
    due_at: float | None
    lease: int
    worker_id: str
    attempts: int
    budget: int
    crashes: int
    suspect: bool
    name: str
    payload: str
    signature: str | None
    options: str | None
    context: str | None
    policy: str | None

    @property
    def rated(self) -> bool:
        """Whether a rate counts its starts."""
        keys = Keys.of(self.policy)
        return keys is not None and keys.rate is not None

    @classmethod
    def of(cls, row: Row[Any]) -> ClaimedRow:
        """Take the columns that are these from the beginning of *row*."""
        return cls._make(row[: len(cls._fields)])


#: The row of a claim, or one of SQLAlchemy's with all columns.
AnyRow = ClaimedRow | Row[Any]


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

    def prepared(self, job: Job, like: Job | None = None) -> Job:
        """Return the job with its call in serialized form: see ``Backend.prepare``."""
        row = self.of_job(job, like)
        check_size(row["name"], row, self._most_bytes())
        call: Any = UnopenedCall(row["name"], partial(self._load_new, row, job.options), row)
        return job._replace(call=call)

    def of_job(self, job: Job, like: Job | None = None) -> Mapping[str, Any]:
        """Return the row of a new job, without the instants, which the database sets; it is not to
        be changed. like: see ``Backend.prepare``. Raises NotSerializable."""
        call: Any = job.call
        if type(call) is UnopenedCall and call.row is not None:
            return call.row
        alike: Any = None if like is None else like.call
        row = _common_columns(job) if alike is None else dict(alike.row)
        row["uid"] = job.uid
        serialized = self.serializer.dump(job.uid, job.call, bound=self.bound(_deciding(row)))
        if alike is None:
            self._check_options(job.options, serialized)
            row["name"], row["task_name"] = serialized.name, listed(serialized.name)
        row["payload"], row["signature"] = serialized.payload, serialized.signature
        if job.keys is not None:
            row |= policy_columns(_state_of(job), job.keys)
        return row

    def _check_options(self, options: TaskOptions, serialized: SerializedCall) -> None:
        if options is DEFAULT_OPTIONS:
            return
        for name in not_in_rows(options):
            task = self.serializer.task_of(serialized)
            if task is None or getattr(task, name) is not getattr(options, name):
                raise NotSerializable(
                    f"{name}: expected a value that a database row can hold, got an object of this "
                    f"process; declare it at {serialized.name}, by @task({name}=...), where a "
                    f"worker finds it, {HOLDABLE.get(name, 'and enqueue that task')}"
                )

    def bound(self, deciding: Deciding) -> str:
        """Return the digest that a signature covers beside the call."""
        return _digest(self._identity(), deciding) if self.serializer.signs else ""

    def _load_new(self, row: Mapping[str, Any], options: TaskOptions) -> Call:
        serialized = SerializedCall(row["name"], row["payload"], row["signature"])
        return self._load(row["uid"], serialized, _deciding(row), options)

    def _load(
        self, uid: str, serialized: SerializedCall, deciding: Deciding, options: TaskOptions
    ) -> Call:
        implied = int(options.takes_context)
        bound = self.bound(deciding)
        return self.serializer.load(uid, serialized, bound=bound, implied=implied)

    def job(self, row: AnyRow, *, opened: bool) -> Job:
        """Read the job of a row. opened: read its call at once, which raises as
        ``CallSerializer.load`` does."""
        options = self._options(row) if opened else self.options(row)
        serialized = SerializedCall(row.name, row.payload, row.signature)
        deciding = Deciding(row.queue_name, row.rank, row.options, row.context)
        call: Any
        if opened:
            call = self._load(row.uid, serialized, deciding, options)
            if row.options and TASKS_OWN in row.options:
                options = self._with_tasks_own(options, json.loads(row.options), serialized)
        else:
            load = partial(self._load, row.uid, serialized, deciding, options)
            call = UnopenedCall(row.name, load)
        context = _context(row, strict=opened)
        due_at, keys = _instant(row.due_at), Keys.of(row.policy)
        return Job(JobId(row.uid), call, options, due_at, context, keys)

    def _with_tasks_own(
        self, options: TaskOptions, found: dict[str, Any], serialized: SerializedCall
    ) -> TaskOptions:
        task, own = self.serializer.task_of(serialized), tasks_own(found)
        if own and task is None:
            raise CallableMissing(
                serialized.name,
                f"it is no longer a task, and the job needs its {' and '.join(own)}",
            )
        return replace(options, **{name: getattr(task, name) for name in own})

    def claim(self, row: AnyRow, *, opened: bool) -> Claim:
        """Read the claim on a row that was claimed; raises as ``job`` does."""
        return Claim(
            self.job(row, opened=opened),
            row.lease,
            row.attempts,
            row.budget - row.attempts,
            self._max_crashes - row.crashes - 1,
            row.worker_id,
        )

    def options(self, row: AnyRow) -> TaskOptions:
        """Read the options of a row; the default ones if they cannot be read, so that such a job
        can be shown and ended."""
        try:
            return self._options(row)
        except Unreadable:
            return DEFAULT_OPTIONS

    def _options(self, row: AnyRow) -> TaskOptions:
        try:
            found = json.loads(row.options) if row.options else {}
            for name in tasks_own(found) if found else ():
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


def _state_of(job: Job) -> int:
    return states.SCHEDULED if job.run_after else states.AVAILABLE


def _common_columns(job: Job) -> dict[str, Any]:
    """Return the columns of a new job that are the same for others of its options, context and
    earliest start."""
    after, context = job.run_after, job.context
    return {
        "state": _state_of(job),
        "rank": -job.options.priority,
        "queue_name": job.options.queue_name,
        "due_at": after.timestamp() if isinstance(after, datetime) else None,
        "delay": after.total_seconds() if isinstance(after, timedelta) else None,
        "budget": job.options.max_attempts,
        "options": options_text(job.options),
        "context": None if context is None else json.dumps(dict(context)),
        "enqueued_by": listed(user_of(context)),
    }


class Deciding(NamedTuple):
    """What else decides what a job does, and for whom."""

    queue_name: str
    rank: int
    options: str | None
    context: str | None


def _deciding(row: Mapping[Any, Any]) -> Deciding:
    return Deciding(row["queue_name"], row["rank"], row["options"], row["context"])


@functools.lru_cache(maxsize=256)
def _digest(identity: str | None, deciding: Deciding) -> str:
    text = json.dumps([identity, *deciding])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _why(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text  # as versions before this one stored it


def _context(row: AnyRow, *, strict: bool) -> dict[str, Any] | None:
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


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else instant(seconds)
