"""Decides whether a job whose module is missing in a worker is left to other workers.

During a deploy an older release does not have a module of the newer one, and a worker on another
machine may have other packages. After a removal or a renaming no worker has the module. Time
distinguishes the two: the job is left to others until no worker has been able to run it for a day.

This needs no column of its own. ``started_at`` is set by the first claim and remains. Each claim
adds one to ``lease`` and, unless it was released, one to ``attempts`` or ``crashes``. So a job that
was delayed for long before its first claim is not late, and a job that ran before, and waited for
its next attempt, is still offered CLAIMS times.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Row

#: How long such a job is left to others before it can be claimed again, in seconds.
ELSEWHERE_SECONDS = 30.0

#: The job fails when so many seconds have passed since its first claim, and so many of its claims
#: were released.
LONGEST_SECONDS, CLAIMS = 86_400.0, 20


def may_be_elsewhere(engine: Engine, select: Any) -> bool:
    """Whether another worker may have the module. select: selects the row of the claimed job."""
    with engine.connect() as connection:
        row: Row[Any] = connection.execute(select).one()
    waited_seconds = (
        row.last_attempted_at - row.started_at
    )  # instants of this and of the first claim
    given_back = row.lease - row.attempts - row.crashes
    return bool(waited_seconds < LONGEST_SECONDS or given_back < CLAIMS)
