"""``status``: show counts, waiting and running jobs and workers, or the state of some jobs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from datetime import datetime
from typing import Any

from ..backends.limits import KeyState
from ..backends.listing import MOST_LISTED, check_limit
from ..backends.overview import Overview, PausedQueue, QueueDepth, RunningJob
from ..errors import ConfigError, UnknownJob
from ..explanation import write_lock_holders
from ..job import TaskResultStatus, WorkerInfo
from ..queue import JobQueue
from ..task_result import TaskResult
from ..wording import lasting
from .command_result import FINE, NOTHING_FOUND, CommandResult, as_json, table
from .filters import add_filters, filter_of, is_narrowed
from .output import one_line
from .shared_backend import overview_of

#: Jobs that a list shows, if --limit does not say how many.
LISTED = 20

#: The most running jobs in a text; --json shows all.
MOST_SHOWN = 50


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("uid", nargs="*", help="jobs to show, and why they do not run yet")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, for programs")
    form.add_argument(
        "--watch",
        action="store_true",
        help="show the whole queue until q or Ctrl-C, read again each second (extra cli)",
    )
    add_filters(parser)
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"list at most N jobs, newest first (default: {LISTED}, at most {MOST_LISTED})",
    )


def run(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Show the whole queue, or some jobs."""
    overview = overview_of(queue)
    if wanted.watch:
        return _watched(queue, wanted)
    if is_narrowed(wanted) or wanted.limit is not None:
        return _listed(queue, wanted, overview.now())
    if not wanted.uid:
        return _whole_as_json(queue, overview) if wanted.json else _whole(queue, overview)
    found = [_result(queue, uid) for uid in dict.fromkeys(wanted.uid)]
    code = NOTHING_FOUND if any(isinstance(each, UnknownJob) for each in found) else FINE
    if wanted.json:
        return as_json([_job_as_json(each) for each in found], code)
    return CommandResult("\n\n".join(_job(each) for each in found), code)


def _watched(queue: JobQueue, wanted: Namespace) -> CommandResult:
    if wanted.uid or is_narrowed(wanted) or wanted.limit is not None:
        raise ConfigError(
            "status --watch: expected no uids and no filter: it shows the whole queue"
        )
    from .watch import watch  # it needs the extra cli

    return watch(queue)


def _result(queue: JobQueue, uid: str) -> TaskResult | UnknownJob:
    try:
        return queue.result(uid)
    except UnknownJob as error:
        return error


# -- the whole queue


def _whole_as_json(queue: JobQueue, overview: Overview) -> CommandResult:
    connections = overview.connections()
    return as_json(
        {
            "database": overview.database(),
            "counts": {status.value: count for status, count in queue.backend.counts().items()},
            "waiting": [_depth_as_json(each) for each in overview.waiting()],
            "paused": [each._asdict() for each in queue.backend.paused()],
            "running": [each._asdict() for each in overview.running()],
            "limits": [_key_as_json(each) for each in queue.backend.key_states().states],
            "queue_limits": queue.backend.queue_limits(),
            "workers": [each._asdict() for each in overview.workers()],
            "connections": None if connections is None else connections._asdict(),
        }
    )


def _depth_as_json(depth: QueueDepth) -> dict[str, Any]:
    oldest = None if depth.oldest is None else depth.oldest._asdict()
    return {
        "queue_name": depth.queue_name,
        "due": depth.due,
        "delayed": depth.delayed,
        "next_due_at": depth.next_due_at,
        "oldest": oldest,
    }


def _whole(queue: JobQueue, overview: Overview) -> CommandResult:
    now = overview.now()
    counts = queue.backend.counts()
    workers = overview.workers()
    parts = [
        f"database: {one_line(overview.database())}",
        table([status.value for status in counts], [list(counts.values())]),
        _waiting(queue, overview, now, workers),
        _running(overview, now),
        _limits(queue),
        _workers(workers, now),
        _connections(overview),
    ]
    return CommandResult("\n\n".join(part for part in parts if part))


def _waiting(queue: JobQueue, overview: Overview, now: datetime, workers: list[WorkerInfo]) -> str:
    paused = {each.queue_name: each for each in queue.backend.paused()}
    rows = [
        (
            each.queue_name,
            each.due,
            each.delayed,
            "-" if each.next_due_at is None else f"in {lasting(each.next_due_at - now)}",
            _pause(paused.pop(each.queue_name, None), now) or _unserved(each.queue_name, workers),
        )
        for each in overview.waiting()
    ]
    rows += [(name, 0, 0, "-", _pause(each, now)) for name, each in paused.items()]
    heads = ["WAITING IN", "DUE", "DELAYED", "NEXT", ""]
    return table(heads, rows) if rows else "nothing waits"


def _limits(queue: JobQueue) -> str:
    backend = queue.backend
    keys = backend.key_states()
    rows: list[tuple[object, ...]] = [
        (
            one_line(each.use.key), each.use.text, each.running,
            f"{each.waiting}{'+' * each.is_capped}", each.use.next_text,
        )
        for each in keys.states
    ]  # fmt: skip
    if keys.has_more:
        rows.append(("...", "there may be more keys", "", "", ""))
    for name, most in backend.queue_limits().items():
        running = backend.running_in(name)
        is_next = "now" if running < most else "when one ends"
        rows.append((f"queue {one_line(name)}", f"{most} at once", running, "", is_next))
    return table(["LIMIT OF", "LIMIT", "RUNNING", "WAITING", "NEXT START"], rows) if rows else ""


def _key_as_json(state: KeyState) -> dict[str, Any]:
    return {**state.use._asdict(), "running": state.running, "waiting": state.waiting}


def _pause(paused: PausedQueue | None, now: datetime) -> str:
    if paused is None:
        return ""
    by = f" by {paused.user}" if paused.user else ""
    return f"paused{by} {lasting(now - paused.since)} ago"


def _unserved(name: str, workers: list[WorkerInfo]) -> str:
    is_served = any(each.queues is None or name in each.queues for each in workers)
    return "" if is_served else "no living worker serves it"


def _running(overview: Overview, now: datetime) -> str:
    found = overview.running(MOST_SHOWN + 1)
    if not found:
        return "nothing runs"
    rows = [
        (
            each.uid,
            each.name,
            lasting(now - each.since),
            _progress(each),
            each.attempt,
            each.worker_id or "-",
        )
        for each in found[:MOST_SHOWN]
    ]
    shown = [table(["RUNNING", "CALL", "SINCE", "PROGRESS", "ATTEMPT", "WORKER"], rows)]
    if len(found) > MOST_SHOWN:
        shown.append(f"(the oldest {MOST_SHOWN})")
    return "\n".join([*shown, *map(one_line, write_lock_holders(overview, now))])


def _progress(job: RunningJob) -> str:
    text = _share(job.value, job.total)
    return f"{text} (to be cancelled)" if job.is_cancelled else text


def _share(value: int, total: int | None) -> str:
    if value < 0:
        return "-"
    return str(value) if total is None else f"{value}/{total}"


def _workers(workers: list[WorkerInfo], now: datetime) -> str:
    if not workers:
        return "no worker is alive"
    rows = [
        (
            each.worker_id,
            each.host,
            each.pid,
            each.threads,
            "all" if each.queues is None else ",".join(each.queues),
            lasting(now - each.started_at),
            f"{lasting(now - each.seen_at)} ago",
            "stopping" if each.stopping else "",
        )
        for each in workers
    ]
    heads = ["WORKER", "HOST", "PID", "THREADS", "QUEUES", "SINCE", "HEARTBEAT", ""]
    return table(heads, rows)


def _connections(overview: Overview) -> str:
    found = overview.connections()
    if found is None:
        return ""
    return f"connections to the server, by all programs: {found.held} of {found.most}"


# -- a list of jobs


def _listed(queue: JobQueue, wanted: Namespace, now: datetime) -> CommandResult:
    """Show the newest jobs of a filter."""
    if wanted.uid:
        raise ConfigError("status: expected uids or a filter, got both; leave one of them out")
    limit = check_limit(LISTED if wanted.limit is None else wanted.limit)
    results, following = queue.page_of(filter_of(queue, wanted), None, limit)
    code = FINE if results else NOTHING_FOUND
    if wanted.json:
        return as_json([{**each.__json__(), "attempts": each.attempts} for each in results], code)
    if not results:
        return CommandResult("no such job", code)
    rows = [
        (
            each.id,
            each.status.value,
            each.name,
            f"{lasting(now - (each.finished_at or each.enqueued_at))} ago",
            each.attempts,
            each.enqueued_by or "-",
            _last_error(each),
        )
        for each in results
    ]
    heads = ["JOB", "STATUS", "CALL", "ENDED OR ENQUEUED", "ATTEMPTS", "BY", "LAST ERROR"]
    more = "\n(there are more: --limit)" if following is not None else ""
    return CommandResult(table(heads, rows) + more, code)


def _last_error(found: TaskResult) -> str:
    if not found.errors:
        return ""
    error = found.errors[-1]
    first, *_ = error.message.splitlines() or [""]
    return f"{error.exception_class_path}: {first}"


# -- one job


def _job_as_json(found: TaskResult | UnknownJob) -> dict[str, Any]:
    if isinstance(found, UnknownJob):
        return {"id": found.uid, "status": None, "error": str(found)}
    why = _reasons(found)
    return {**found.__json__(), "attempts": found.attempts, "why_not_running": why}


def _job(found: TaskResult | UnknownJob) -> str:
    if isinstance(found, UnknownJob):
        return one_line(str(found))
    lines = [
        f"{found.id}  {found.status.value}",
        f"  call: {one_line(found.name)}",
        f"  enqueued: {_instant(found.enqueued_at)}",
    ]
    for label, instant in (
        ("first begun", found.started_at),
        ("last begun", found.last_attempted_at),
        ("ended", found.finished_at),
    ):
        if instant is not None:
            lines.append(f"  {label}: {_instant(instant)}")
    lines.append(f"  attempts: {found.attempts}")
    if found.progress.value >= 0:
        lines.append(f"  progress: {_share(found.progress.value, found.progress.total)}")
    if found.errors:
        lines.append(f"  last error: {one_line(_last_error(found))}")
    lines += [f"  why not yet: {one_line(reason)}" for reason in _reasons(found)]
    return "\n".join(lines)


def _reasons(found: TaskResult) -> list[str]:
    return found.explain(workers=True) if found.status is TaskResultStatus.READY else []


def _instant(instant: datetime) -> str:
    return instant.isoformat(sep=" ", timespec="seconds")
