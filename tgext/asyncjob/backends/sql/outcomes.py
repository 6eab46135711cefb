"""Stores outcomes by themselves, in forms that ask less and less of the database: none is lost.

A connection may not hold the text of an error, or a row a result. What has no content of its own
can be stored wherever anything can, so a database that refuses that too refuses everything for now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ...job import Claim, Outcome, TaskError
from ...task import NotKept
from .claims import Claims, End, is_plain
from .dialect import Dialect
from .faults import store_first_accepted

log = logging.getLogger(__name__)

#: Characters of a text that is kept escaped.
_ESCAPED_LENGTH = 2_000

_NOT_KEPT = NotKept("the database could not store it; the log of the worker says why")


class Outcomes:
    """is_passing: whether an error says that the database is away or busy."""

    def __init__(
        self, claims: Claims, dialect: Dialect, is_passing: Callable[[BaseException], bool]
    ) -> None:
        self._claims = claims
        self._dialect = dialect
        self._is_passing = is_passing

    def store(self, claim: Claim, outcome: Outcome) -> bool:
        """Store an outcome in the first form that the database takes; False where the claim no
        longer holds.

        Raises what it raised for the outcome itself where it takes none: it is to come back.
        """
        stored, refused = store_first_accepted(
            _forms(outcome), partial(self._store, claim), self._is_passing
        )
        if refused is not None and stored:
            log.error(
                "job=%s its outcome could not be stored as it is, and was shortened "
                "(%.500s); it was: %.5000s", claim.job.uid, refused, outcome,
            )  # fmt: skip
        return stored

    def store_all(self, ends: Sequence[End]) -> list[bool]:
        """Store some in as few commits as possible."""
        try:
            with self._dialect.begin() as connection:
                if self._claims.finish_many(ends, connection):
                    return [True] * len(ends)
                connection.exec_driver_sql("ROLLBACK")
                connection.exec_driver_sql(self._dialect.begin_text)
                return [self._claims.finish(*end, connection) for end in ends]
        except Exception as error:
            if self._is_passing(error):
                raise
        return [self.store(*end) for end in ends]  # it may have been one of them

    def _store(self, claim: Claim, outcome: Outcome) -> bool:
        # What is one statement commits by itself.
        connect = self._dialect.write if is_plain(outcome) else self._dialect.begin
        with connect() as own:
            return self._claims.finish(claim, outcome, own)


def _forms(outcome: Outcome) -> Iterator[Outcome]:
    yield outcome
    result = None if outcome.result is None else _NOT_KEPT
    if outcome.error is not None or result is not None or outcome.log:
        error = None if outcome.error is None else TaskError(*map(_escaped, outcome.error))
        yield outcome._replace(result=result, error=error, log=())
    if outcome.error is not None:
        yield outcome._replace(result=result, error=None, log=())


def _escaped(text: str) -> str:
    """The beginning and the end of a text, in ASCII, as Python would write it."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    half = _ESCAPED_LENGTH // 2
    return plain if len(plain) <= _ESCAPED_LENGTH else f"{plain[:half]} ... {plain[-half:]}"
