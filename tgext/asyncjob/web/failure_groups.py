"""Failed jobs in groups: those of the same task with the same class of error at the same place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ..backends.listing import LastError
from ..job import TaskError
from .tracebacks import traceback_of


class _Common(NamedTuple):
    """What the jobs of a group have in common."""

    name: str  #: of the task
    error_class: str
    place: str  #: the innermost frame of the application; "" if there is none


@dataclass
class FailureGroup:
    """The failures of one kind."""

    key: str  #: stands for the group in a form
    name: str
    error_class: str
    place: str
    message: str  #: of the last one
    first: datetime
    last: datetime
    uids: list[str] = field(default_factory=list)  #: the last first


def groups_of(jobs: Iterable[LastError]) -> list[FailureGroup]:
    """Group failed jobs, the last that ended first; the largest group comes first."""
    found: dict[_Common, FailureGroup] = {}
    places: dict[str, str] = {}  # most failures have the frames of others
    for job in jobs:
        at, error = job.at, job.error or TaskError("", "", "")
        frames = _frames(error)
        if frames not in places:
            innermost = traceback_of(error.traceback).innermost
            places[frames] = "" if innermost is None else innermost.place
        place = places[frames]
        common = _Common(job.name, error.exception_class_path, place)
        group = found.get(common)
        if group is None:
            group = FailureGroup(_key(common), *common, error.message, at, at)
            found[common] = group
        group.first, group.last = min(group.first, at), max(group.last, at)
        group.uids.append(job.uid)
    return sorted(found.values(), key=lambda group: (-len(group.uids), group.key))


def _frames(error: TaskError) -> str:
    """The traceback up to its message, which often names an order or a customer."""
    frames, found, after = error.traceback.rpartition(error.message or "\n")
    return frames if found and 'File "' not in after else error.traceback


def _key(common: _Common) -> str:
    # As JSON: no part can be moved into the next one.
    return hashlib.sha256(json.dumps(common).encode("ascii")).hexdigest()[:24]
