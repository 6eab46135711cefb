"""Enqueues what follows from the failure of a job, in the transaction that stores the failure."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from ...job import Job, JobId
from ..base import AfterFailure
from .insertion import Insertion
from .rows import Rows


class FollowUps:
    """new_uid: makes the uid of a job. after_failure: returns ``Backend.after_failure``."""

    def __init__(
        self,
        rows: Rows,
        insertion: Insertion,
        new_uid: Callable[[], JobId],
        after_failure: Callable[[], AfterFailure],
    ) -> None:
        self._rows = rows
        self._insertion = insertion
        self._new_uid = new_uid
        self._after_failure = after_failure

    def add(self, uid: str, name: str, queue_name: str, connection: Connection) -> None:
        """Enqueue what follows from the failure of the job *uid*, if anything."""
        follows = self._after_failure()(uid, name, queue_name)
        if follows is not None:
            job = Job(self._new_uid(), *follows)
            self._insertion.store([self._rows.of_job(job)], connection)
