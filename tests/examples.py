"""How many examples Hypothesis makes: in ``make fast``, where ``FAST`` is, a quarter as many."""

from __future__ import annotations

import os


def examples(number: int) -> int:
    """Return how many to make, of *number* in ``make test``."""
    return max(1, number // 4) if os.environ.get("FAST") else number
