"""``schedules``: show schedules and their ticks; pause, resume, run now and delete some."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..backends.listing import check_limit
from ..backends.schedules import ScheduleState
from ..errors import AsyncJobError, ConfigError
from ..queue import JobQueue
from ..schedule import Schedule
from ..wording import lasting
from .actions import operator
from .command_result import FINE, NOTHING_FOUND, USAGE, CommandResult, as_json, table
from .output import one_line
from .shared_backend import overview_of

#: Ticks of a schedule that are shown, if --ticks does not say how many.
TICKS = 5

#: Next ticks of a schedule that are shown.
UPCOMING = 3


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", help="schedules to show or change; default: list all")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument(
        "--ticks", type=int, metavar="N", help=f"show the last N ticks of each (default: {TICKS})"
    )
    change = parser.add_mutually_exclusive_group()
    for option, summary in (
        ("pause", "skip their ticks from now on"),
        ("resume", "end their pause"),
        ("run-now", "enqueue a job of each, beside its ticks"),
        ("delete", "remove them; those that @task declares only when they are stale"),
    ):
        value = option.replace("-", "_")
        change.add_argument(
            f"--{option}", action="store_const", const=value, dest="change", help=summary
        )


def run(queue: JobQueue, wanted: Namespace) -> CommandResult:
    """Show all schedules, or show or change some."""
    now = overview_of(queue).now()
    names = list(dict.fromkeys(wanted.name))
    if wanted.change:
        if not names:
            option = wanted.change.replace("_", "-")
            raise ConfigError(f"schedules: expected the names of schedules beside --{option}")
        return _change(queue, names, wanted.change)
    ticks = check_limit(TICKS if wanted.ticks is None else wanted.ticks)
    if names:
        return _some(queue, names, ticks, now, wanted.json)
    found = queue.schedules()
    if wanted.json:
        return as_json([_as_json(each) for each in found])
    rows = [(each.name, each.timing, _next(each, now), _state(each)) for each in found]
    return CommandResult(
        table(["NAME", "WHEN", "NEXT", ""], rows) if rows else "there are no schedules"
    )


def _found(queue: JobQueue, name: str) -> Schedule | None:
    state: ScheduleState | None = queue.backend.schedules.get(name)
    act = operator()
    return None if state is None else Schedule(queue.results, state, lambda: act.user, act)


def _some(
    queue: JobQueue, names: list[str], ticks: int, now: datetime, as_data: bool
) -> CommandResult:
    found = {name: _found(queue, name) for name in names}
    code = FINE if all(found.values()) else NOTHING_FOUND
    if as_data:
        data = [_as_json(each, ticks) for each in found.values() if each is not None]
        return as_json(data, code)
    parts = [
        _unknown(name) if each is None else _one(each, ticks, now) for name, each in found.items()
    ]
    return CommandResult("\n\n".join(parts), code)


def _one(schedule: Schedule, most: int, now: datetime) -> str:
    upcoming = [f"{each:%Y-%m-%d %H:%M:%S} UTC" for each in schedule.upcoming(UPCOMING)]
    lines = [
        schedule.name,
        f"calls {schedule.task}",
        f"{schedule.timing}, catch_up {schedule.catch_up}",
        f"next: {', '.join(upcoming) or '-'}",
        *schedule.explain(),
    ]
    rows = [
        (f"{each.instant:%Y-%m-%d %H:%M:%S} UTC", each.status, each.uid or "", each.reason or "")
        for each in schedule.ticks(most)
    ]
    text = "\n".join(map(one_line, lines))
    return f"{text}\n{table(['TICK', '', 'JOB', ''], rows)}" if rows else text


def _next(schedule: Schedule, now: datetime) -> str:
    if schedule.next_at is None:
        return "-"
    left = schedule.next_at - now
    return f"in {lasting(left)}" if left.total_seconds() >= 0 else f"since {lasting(-left)}"


def _state(schedule: Schedule) -> str:
    if schedule.is_stale:
        return "stale"
    if not schedule.is_paused:
        return ""
    return "paused" if schedule.paused_by is None else f"paused by {schedule.paused_by}"


def _as_json(schedule: Schedule, ticks: int = 0) -> dict[str, Any]:
    every = schedule.every
    found: dict[str, Any] = {
        "name": schedule.name,
        "task": schedule.task,
        "cron": schedule.cron,
        "every_seconds": None if every is None else every.total_seconds(),
        "timezone": schedule.timezone,
        "catch_up": schedule.catch_up,
        "next_at": schedule.next_at,
        "paused_since": schedule.paused_since,
        "paused_by": schedule.paused_by,
        "is_declared": schedule.is_declared,
        "is_stale": schedule.is_stale,
        "version": schedule.version,
    }
    if ticks:
        kept = schedule.ticks(ticks)
        found["ticks"] = [{**each._asdict(), "status": each.status} for each in kept]
    return found


def _unknown(name: str) -> str:
    return one_line(f"there is no schedule {name!r}")


# -- change


def _run_now(schedule: Schedule) -> str | None:
    result = schedule.run_now()
    return None if result is None else f"enqueued {result.id}"


#: By the option: what is done, and what is said if it is done and if it is not.
_CHANGES: dict[str, tuple[Callable[[Schedule], Any], str, str]] = {
    "pause": (Schedule.pause, "is paused", "was paused before"),
    "resume": (Schedule.resume, "is resumed", "was not paused"),
    "delete": (Schedule.delete, "is deleted", "was deleted before"),
    "run_now": (_run_now, "", "was deleted before"),
}


def _change(queue: JobQueue, names: list[str], option: str) -> CommandResult:
    change, done, not_done = _CHANGES[option]
    lines, code = [], FINE
    for name in names:
        schedule = _found(queue, name)
        if schedule is None:
            lines.append(_unknown(name))
            code = max(code, NOTHING_FOUND)
            continue
        try:
            answer = change(schedule)
        except AsyncJobError as error:  # of this one; those before it are changed
            lines.append(one_line(str(error)))
            code = USAGE
            continue
        said = answer if isinstance(answer, str) else done if answer else not_done
        lines.append(one_line(f"{name} {said}"))
        code = code if answer else max(code, NOTHING_FOUND)
    return CommandResult("\n".join(lines), code)
