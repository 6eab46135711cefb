"""The clock of each database, as SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class epoch(FunctionElement[float]):
    """The clock of the database: seconds since the epoch at the begin of the statement. Constant
    within a statement, so that a condition with it can use an index."""

    type = Double()
    inherit_cache = True


@compiles(epoch, "sqlite")
def _epoch_of_sqlite(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch, "postgresql")
def _epoch_of_postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:
    # now() is the begin of the transaction, which may be a job's and hours ago.
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


@compiles(epoch, "mysql")
@compiles(epoch, "mariadb")
def _epoch_of_mariadb(_element: Any, _compiler: Any, **_options: Any) -> str:
    # Not through local time, which repeats an hour when summer time ends.
    return "(timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1e6)"
