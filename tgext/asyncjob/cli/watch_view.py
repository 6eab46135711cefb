"""Draws a Sight as wide and high as a terminal, by rich. Each text of a job is one plain line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from rich.console import ConsoleDimensions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..backends.brief import Brief
from ..backends.overview import RunningJob
from ..job import FAILED, RUNNING, SUCCESSFUL, Snapshot
from ..wording import lasting
from .output import one_line
from .sight import MOST_COUNTED, QueueSight, Sight

#: How statuses look; that they have names as well serves who sees no colours.
_STYLES = {RUNNING: "cyan", SUCCESSFUL: "green", FAILED: "red"}

#: Columns of a bar, and the width from which uids and workers are shown.
BAR, WIDE = 16, 120

#: The most rows of a list, whatever the height.
MOST_ROWS = 100

#: The columns of numbers.
_NUMBERS = {"RUN", "DUE", "DELAYED", "THREADS"}

Cell = str | RenderableType


class _List(NamedTuple):
    """One list of the view."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    nothing: str  #: what is said without rows
    rest: int  #: the column that takes the width that is left

    def drawn(self, most: int) -> Table:
        shown = Table(box=None, expand=True, pad_edge=False, show_header=bool(self.rows))
        for number, head in enumerate(self.heads):
            is_rest = number == self.rest
            shown.add_column(
                head,
                header_style="bold",
                justify="right" if head in _NUMBERS else "left",
                no_wrap=True,
                overflow="ellipsis",
                ratio=1 if is_rest else None,
                min_width=12 if is_rest else None,
            )
        for row in self.rows[:most]:
            shown.add_row(*(_text(cell) if isinstance(cell, str) else cell for cell in row))
        left = len(self.rows) - most
        if not self.rows:
            shown.add_row(_text(self.nothing, "dim"))
        elif left > 0:
            shown.add_row(_text(f"{left} more", "dim"))
        return shown

    def height(self, most: int) -> int:
        """The lines that it takes with so many rows, and the empty one after it."""
        number = len(self.rows)
        return 2 if not number else min(number, most) + (number > most) + 2


def _text(text: str, style: str = "") -> Text:
    """A text of anybody: never as rich's markup, and without what moves a cursor."""
    return Text(one_line(text), style)


def view(sight: Sight, size: ConsoleDimensions, trouble: str | None = None) -> RenderableType:
    """Return what a terminal of this size shows. trouble: why nothing newer could be read."""
    is_wide = size.width >= WIDE
    lists = [_queues(sight), _running(sight, is_wide), _failed(sight, is_wide), _workers(sight)]
    head = [_text(f"{sight.database}   {sight.now:%H:%M:%S} UTC   q ends", "dim"), _counts(sight)]
    if trouble is not None:
        head.append(_text(f"cannot be read now: {trouble}", "bold red"))
    height = size.height - len(head) - 1
    most = max(1, _most_rows(lists, height))
    parts: list[RenderableType] = [*head]
    for each in lists:
        parts += [Text(), each.drawn(most)]
    return Group(*parts)


def _most_rows(lists: Sequence[_List], height: int) -> int:
    """The most rows of each list with which all fit."""
    fitting = (
        n for n in range(MOST_ROWS, 0, -1) if sum(each.height(n) for each in lists) <= height
    )
    return next(fitting, 1)


def _counts(sight: Sight) -> Text:
    parts = [
        _text(f"{status.value} {_number(count)}", _STYLES.get(status, "") if count else "dim")
        for status, count in sight.counts.items()
    ]
    return Text("   ", no_wrap=True, overflow="ellipsis").join(parts)


def _number(count: int) -> str:
    return f"{MOST_COUNTED:,}+" if count > MOST_COUNTED else f"{count:,}"


def _queues(sight: Sight) -> _List:
    rows = [
        (
            each.depth.queue_name,
            f"{each.running}",
            f"{each.depth.due}",
            f"{each.depth.delayed}",
            "-" if each.depth.next_due_at is None else f"in {_to(each.depth.next_due_at, sight)}",
            _text(_note(each, sight.now), "bold yellow"),
        )
        for each in sight.queues
    ]
    return _List(["QUEUE", "RUN", "DUE", "DELAYED", "NEXT", ""], rows, "nothing waits", 5)


def _note(queue: QueueSight, now: datetime) -> str:
    if queue.paused is not None:
        by = f" by {queue.paused.user}" if queue.paused.user else ""
        return f"paused{by} {lasting(now - queue.paused.since)} ago"
    return "" if queue.is_served else "no living worker serves it"


def _to(instant: datetime, sight: Sight) -> str:
    return lasting(instant - sight.now)


def _running(sight: Sight, is_wide: bool) -> _List:
    rows: list[list[Cell]] = []
    for each in sight.running:
        brief = sight.briefs.get(each.uid)
        row: list[Cell] = [
            each.name,
            _bar(each),
            _share(each),
            _left(brief),
            lasting(sight.now - each.since),
            _said(each, brief),
        ]
        rows.append([*row, each.worker_id or "-", each.uid] if is_wide else row)
    heads = ["RUNNING", "", "", "LEFT", "SINCE", "REPORT", *(["WORKER", "UID"] if is_wide else [])]
    return _List(heads, rows, "nothing runs", 0)


def _bar(job: RunningJob) -> Cell:
    if job.value < 0 or not job.total or job.total <= 0:
        return Text(" " * BAR)
    return ProgressBar(job.total, min(job.value, job.total), width=BAR)


def _share(job: RunningJob) -> str:
    if job.value < 0:
        return "-"
    if not job.total or job.total <= 0:
        return f"{job.value}"
    return f"{min(100 * job.value // job.total, 100)} %"


def _left(brief: Brief | None) -> str:
    if brief is None or brief.eta_seconds is None:
        return "-"
    return lasting(timedelta(seconds=brief.eta_seconds))


def _said(job: RunningJob, brief: Brief | None) -> str:
    attempt = f"attempt {job.attempt}" if job.attempt > 1 else ""
    cancelled = "to be cancelled" if job.is_cancelled else ""
    text = "" if brief is None or brief.text is None else brief.text[:60]
    return ", ".join(part for part in (cancelled, attempt, text) if part)


def _failed(sight: Sight, is_wide: bool) -> _List:
    rows: list[list[Cell]] = []
    for each in sight.failed:
        ago = f"{lasting(sight.now - (each.finished_at or each.enqueued_at))} ago"
        row: list[Cell] = [each.job.call.name, ago, _text(_error(each), "red")]
        rows.append([*row, each.job.uid] if is_wide else row)
    heads = ["FAILED", "", "ERROR", *(["UID"] if is_wide else [])]
    return _List(heads, rows, "nothing has failed", 2)


def _error(job: Snapshot) -> str:
    if not job.errors:
        return "-"
    error = job.errors[-1]
    first, *_ = error.message.splitlines() or [""]
    return f"{error.exception_class_path.rpartition('.')[2]}: {first[:200]}"


def _workers(sight: Sight) -> _List:
    rows = [
        (
            each.worker_id,
            f"{each.threads}",
            "all" if each.queues is None else ",".join(each.queues),
            lasting(sight.now - each.started_at),
            f"{lasting(sight.now - each.seen_at)} ago",
            _text("stopping" if each.stopping else "", "yellow"),
        )
        for each in sight.workers
    ]
    heads = ["WORKER", "THREADS", "QUEUES", "SINCE", "HEARTBEAT", ""]
    return _List(heads, rows, "no worker is alive", 5)
