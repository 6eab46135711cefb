"""Stores outcomes in transactions of their own, if need be shortened, so that none is lost.

A connection may be unable to send the text of an error, or a row to hold a result. A form without
content can always be stored, so a database that refuses that too refuses everything at the moment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ...job import Claim, Outcome, TaskError
from ...task_result import NotKept
from .claims import Claims, End, are_alike, is_plain
from .dialect import Dialect
from .faults import store_first_accepted

log = logging.getLogger(__name__)

#: The length of a text that is stored escaped, in characters.
_ESCAPED_LENGTH = 2_000

_NOT_KEPT = NotKept("the database could not store it; the log of the worker says why")


class Outcomes:
    """is_passing: whether an error says that the database cannot be reached or is busy."""

    def __init__(
        self, claims: Claims, dialect: Dialect, is_passing: Callable[[BaseException], bool]
    ) -> None:
        self._claims = claims
        self._dialect = dialect
        self._is_passing = is_passing

    def store(self, claim: Claim, outcome: Outcome) -> bool:
        """Store an outcome in the first form that the database accepts; False if the claim no
        longer holds.

        Raises the error of the outcome itself if no form is accepted; it is to be stored later.
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
        """Store several outcomes in as few commits as possible."""
        try:
            if self._dialect.update_returns and are_alike(ends):
                with self._dialect.write() as own:  # a single statement commits by itself
                    stored = self._claims.succeed([claim for claim, _ in ends], own)
                return [claim.job.uid in stored for claim, _ in ends]
            with self._dialect.begin() as connection:
                if self._claims.finish_many(ends, connection):
                    return [True] * len(ends)
                connection.exec_driver_sql("ROLLBACK")
                connection.exec_driver_sql(self._dialect.begin_text)
                return [self._claims.finish(*end, connection) for end in ends]
        except Exception as error:
            if self._is_passing(error):
                raise
        return [self.store(*end) for end in ends]  # one of them may have been refused

    def _store(self, claim: Claim, outcome: Outcome) -> bool:
        # A single statement commits by itself.
        connect = self._dialect.write if is_plain(outcome) else self._dialect.begin
        with connect() as own:
            return self._claims.finish(claim, outcome, own)


def _forms(outcome: Outcome) -> Iterator[Outcome]:
    yield outcome
    result = None if outcome.result is None else _NOT_KEPT
    if outcome.error is not None or result is not None or outcome.log:
        error = outcome.error
        if error is not None:
            path, message, text = map(_escaped, error[:3])
            error = TaskError(path, message, text)
        yield outcome._replace(result=result, error=error, log=())
    if outcome.error is not None:
        yield outcome._replace(result=result, error=None, log=())


def _escaped(text: str) -> str:
    """The beginning and the end of a text, in ASCII, with the escapes of Python."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    half = _ESCAPED_LENGTH // 2
    return plain if len(plain) <= _ESCAPED_LENGTH else f"{plain[:half]} ... {plain[-half:]}"
