"""The panel of tgext.debugbar: the jobs that a request has enqueued, and from which line.

    hook config_setup ---> register            where the application uses tgext.debugbar
    wrapper ---> recorded(environ)             each job that the request enqueues is noted
    page is rendered ---> JobsSection.content  what is noted, with the status of each job

tgext.debugbar is never imported here: an application that uses it has imported it by then.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from urllib.parse import quote

import tg
from markupsafe import Markup

from ..backends.brief import Brief
from ..current import current_queue, enqueued_var
from ..job import Job
from ..one_line import one_line

#: The key in the environ of a request for its _Enqueued.
_NOTED = "tgext.asyncjob.enqueued"

#: The most jobs of the panel, and characters of one name.
MOST_SHOWN, NAME_LENGTH = 100, 200

#: Frames of these files are not the application's.
_PACKAGE = str(Path(__file__).resolve().parent.parent)

_HEADS = ("Job", "Task", "Queue", "Status", "Enqueued in")


class _Noted(NamedTuple):
    """One job."""

    uid: str
    name: str
    queue_name: str
    place: str


class _Enqueued:
    """What one request has enqueued."""

    def __init__(self) -> None:
        self.number = 0
        self.noted: list[_Noted] = []  #: the first MOST_SHOWN

    def add(self, jobs: list[Job]) -> None:
        self.number += len(jobs)
        place = _place(sys._getframe(1))
        self.noted += [
            _Noted(each.uid, each.call.name, each.options.queue_name, place)
            for each in jobs[: MOST_SHOWN - len(self.noted)]
        ]


def _place(frame: FrameType | None) -> str:
    """The innermost line outside this package."""
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "-"
    return f"{frame.f_globals.get('__name__')}:{frame.f_lineno} in {frame.f_code.co_name}"


def is_used(config: dict[str, Any]) -> bool:
    """Whether an application has tgext.debugbar enabled, which it has with ``debug = true``."""
    return "debugbar.engine" in config


@contextmanager
def recorded(environ: dict[str, Any]) -> Iterator[None]:
    """Note the jobs that are enqueued in the block for the request of *environ*."""
    found = environ.setdefault(_NOTED, _Enqueued())
    token = enqueued_var.set(found.add)
    try:
        yield
    finally:
        enqueued_var.reset(token)


class JobsSection:
    """A section as tgext.debugbar has them: one for all requests of the process."""

    name = "Jobs"
    hooks: dict[str, list[Any]] = {}  # noqa: RUF012 - as its own sections have it

    @property
    def is_active(self) -> bool:
        """Whether this request is noted; asked when the page is rendered, and once before."""
        try:
            return _NOTED in tg.request.environ
        except TypeError:  # the application is being made
            return False

    def title(self) -> str:
        """Return the text of the button."""
        return f"Jobs ({tg.request.environ[_NOTED].number})"

    def content(self) -> str:
        """Return the panel as HTML, which the bar does not escape."""
        found: _Enqueued = tg.request.environ[_NOTED]
        if not found.noted:
            return "<h1>Jobs</h1><p>This request has enqueued no job.</p>"
        briefs = current_queue().results.briefs([each.uid for each in found.noted])
        rows = Markup("").join(_row(each, briefs.get(each.uid)) for each in found.noted)
        heads = Markup("").join(Markup("<th>{}</th>").format(head) for head in _HEADS)
        left = found.number - len(found.noted)
        return Markup('<h1>Jobs</h1><table class="tgdb_table"><tr>{}</tr>{}</table>{}').format(
            heads, rows, Markup("<p>{} more</p>").format(left) if left else ""
        )


def _row(job: _Noted, brief: Brief | None) -> Markup:
    # Another attempt of the request, or a savepoint, has taken it back.
    status = "taken back" if brief is None else brief.status.value
    cells = (_shown(job.name), _shown(job.queue_name), status, _shown(job.place))
    return Markup('<tr class="tgdb_row"><td>{}</td>{}</tr>').format(
        _uid(job.uid), Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
    )


def _uid(uid: str) -> Markup:
    path = current_queue().options.web_path
    if path is None:
        return Markup("{}").format(uid)
    base = quote(tg.request.script_name) + path
    return Markup('<a href="{}/job?uid={}">{}</a>').format(base, uid, uid)


def _shown(text: str) -> str:
    return one_line(text[:NAME_LENGTH])


def register() -> None:
    """Add the section where the application has imported tgext.debugbar; once for a process."""
    sections = getattr(sys.modules.get("tgext.debugbar.sections"), "__sections__", None)
    if sections is not None and not any(isinstance(each, JobsSection) for each in sections):
        sections.append(JobsSection())
