"""The table of URLs: for each path and method what answers, and who may use it.

A path is below the place where the WebApplication is served. ``tests/test_web_rights.py`` fails for
a row that its matrix does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from webob import Response

from . import (
    audit_page,
    change_page,
    dashboard,
    failures_page,
    job_page,
    jobs_page,
    limits_page,
    overview_page,
    progress,
    queues_page,
    schedules_page,
    statics,
    workers_page,
)
from .visit import Visit


class Right(Enum):
    """Who may use a URL."""

    ANYBODY = "anybody"  #: it tells nothing of any job
    UID = "uid"  #: who knows the uid of a job, or has enqueued it: ``asyncjob.progress_access``
    VIEW = "view"  #: who may see all jobs
    ACT = "act"  #: who may change all jobs
    CANCEL = "cancel"  #: the job's button, rendered for this user; its owner; who may act


class Route(NamedTuple):
    """One row."""

    method: str  #: GET stands for HEAD, too
    path: str
    right: Right
    answer: Callable[[Visit], Response]

    def allows(self, visit: Visit) -> bool:
        """Whether the user may use the row, as far as that does not depend on a job."""
        if self.right is Right.VIEW:
            return visit.rights.may_view
        return visit.rights.may_act if self.right is Right.ACT else True


ROUTES = (
    Route("GET", "", Right.ANYBODY, dashboard.start),
    Route("GET", "/", Right.VIEW, overview_page.show),
    Route("GET", "/jobs", Right.VIEW, jobs_page.show),
    Route("POST", "/jobs/change", Right.ACT, change_page.change_selected),
    Route("GET", "/jobs/all", Right.ACT, change_page.confirm),
    Route("POST", "/jobs/all", Right.ACT, change_page.change_all),
    Route("GET", "/job", Right.VIEW, job_page.show),
    Route("POST", "/job/retry", Right.ACT, job_page.retry),
    Route("GET", "/failures", Right.VIEW, failures_page.show),
    Route("POST", "/failures/retry", Right.ACT, failures_page.retry),
    Route("GET", "/queues", Right.VIEW, queues_page.show),
    Route("POST", "/queues/pause", Right.ACT, queues_page.pause),
    Route("POST", "/queues/resume", Right.ACT, queues_page.resume),
    Route("GET", "/schedules", Right.VIEW, schedules_page.show),
    Route("GET", "/schedule", Right.VIEW, schedules_page.show_one),
    Route("POST", "/schedules/pause", Right.ACT, schedules_page.pause),
    Route("POST", "/schedules/resume", Right.ACT, schedules_page.resume),
    Route("POST", "/schedules/run", Right.ACT, schedules_page.run_now),
    Route("POST", "/schedules/delete", Right.ACT, schedules_page.delete),
    Route("GET", "/limits", Right.VIEW, limits_page.show),
    Route("GET", "/workers", Right.VIEW, workers_page.show),
    Route("GET", "/audit", Right.VIEW, audit_page.show),
    Route("GET", "/progress", Right.UID, progress.show),
    Route("GET", "/reload", Right.UID, progress.reload),
    Route("POST", "/cancel", Right.CANCEL, progress.cancel),
    Route("GET", "/static/progress.js", Right.ANYBODY, statics.send),
    Route("GET", "/static/progress.css", Right.ANYBODY, statics.send),
    Route("GET", "/static/dashboard.js", Right.ANYBODY, statics.send),
    Route("GET", "/static/dashboard.css", Right.ANYBODY, statics.send),
)


def found_at(path: str) -> dict[str, Route]:
    """Return the routes of *path* by their methods; {}: there is no such page."""
    return {route.method: route for route in ROUTES if route.path == path}
