"""Gives a waiting job the call of a newer one, which is not opened for it, and the keys of that."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from ...policies import Keys
from ...serialization import SerializedCall
from . import states
from .rows import Deciding, Rows


def with_call_of(rows: Rows, older: Row[Any], newer: Row[Any]) -> dict[str, Any]:
    """Return what the row of a waiting job gets of a newer one: its call, and for whom it is run.

    Raises BadSignature if the newer row was changed, or cannot be verified by this process.
    """
    its = Deciding(newer.queue_name, newer.rank, newer.options, newer.context)
    moved = Deciding(older.queue_name, older.rank, older.options, newer.context)
    call = rows.serializer.moved(
        SerializedCall(newer.name, newer.payload, newer.signature),
        old=(newer.uid, rows.bound(its)),
        new=(older.uid, rows.bound(moved)),
    )
    return {
        **call._asdict(),
        "context": newer.context,
        "task_name": newer.task_name,
        "enqueued_by": newer.enqueued_by,
    }


def with_keys(older: Row[Any], keys: Keys) -> dict[str, Any]:
    """Return what the row of a waiting job gets that is to wait for other keys. If it waits for its
    unique key, or its time, it still does so."""
    values: dict[str, Any] = {"policy": keys.text, "limit_key": keys.group}
    if older.state == states.AVAILABLE or older.blocked_by == older.limit_key is not None:
        values["blocked_by"] = keys.group
        values["state"] = states.AVAILABLE if keys.group is None else states.BLOCKED
    return values
