"""The rows of failed attempts, written in the transaction that stores the outcome."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Insert, Table, insert

from ...job import TaskError

#: The most characters of the path of an exception's class.
PATH_LENGTH = 255


def failure(
    errors: Table,
    uid: str,
    error: TaskError,
    *,
    at: ColumnElement[float],
    attempt: int,
    worker_id: str,
) -> Insert:
    """Return the statement that stores why an attempt of a job failed, when, and on which worker.

    attempt: 1 for the first.
    """
    return insert(errors).values(
        uid=uid,
        exception_class_path=error.exception_class_path[:PATH_LENGTH],
        message=error.message,
        traceback=error.traceback,
        at=at,
        attempt=attempt,
        worker_id=worker_id or None,
    )
