"""Which of the rows that a claim has found may run in one batch, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import ClaimedRow


def in_order(rows: Sequence[ClaimedRow]) -> list[ClaimedRow]:
    """Return the rows as they are to run: the most urgent first, then the oldest."""
    return sorted(rows, key=lambda row: (row.rank, row.number))


def together(rows: Sequence[ClaimedRow]) -> int | None:
    """Return how many of these may be claimed together, from the first; None: all.

    A suspect may end the process, so it runs alone: if the process dies again, that job has crashed
    it. A job with a rate starts with its claim, so it is the first.
    """
    for number, row in enumerate(rows):
        if row.suspect or (number and row.policy is not None and row.rated):
            return number or 1
    return None
