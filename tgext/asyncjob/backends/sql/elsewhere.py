"""Whether a job whose module a worker does not have is still left to other workers.

During a deploy the older release has not got what the newer one has enqueued, and a worker of
another machine may have other packages. After a removal or a renaming no worker has the module.
Time tells the two apart: the job is left to others until none has been able to run it for a day.

The row has no column for that and needs none. ``started_at`` is set by the first claim and stays;
each claim adds one to ``lease``, and what came of it to ``attempts`` or ``crashes``, unless it was
given back. A job that was delayed for long before its first claim is not late, therefore, and one
that ran before, and waited for its next attempt, is still offered CLAIMS times.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Row

#: How long such a job is left to others before it can be claimed again, in seconds.
ELSEWHERE_SECONDS = 30.0

#: After how many seconds since its first claim it fails, and after how many claims that were
#: given back: both.
LONGEST_SECONDS, CLAIMS = 86_400.0, 20


def may_be_elsewhere(engine: Engine, select: Any) -> bool:
    """Whether another worker may have what this one has not. select: the row of the claimed job."""
    with engine.connect() as connection:
        row: Row[Any] = connection.execute(select).one()
    waited_seconds = row.last_attempted_at - row.started_at  # this claim's, and the first one's
    given_back = row.lease - row.attempts - row.crashes
    return bool(waited_seconds < LONGEST_SECONDS or given_back < CLAIMS)
