"""The names of the queues that a statement reads, as parameters of a statement compiled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import String, bindparam

#: Names of queues, or the parameters of a statement for them; None: all queues.
Queues = Sequence[Any] | None


def parameters(number: int | None) -> Queues:
    """Return the parameters for the names of so many queues; None: all."""
    if number is None:
        return None
    return [bindparam(f"queue_{each}", type_=String()) for each in range(number)]


def values(queues: Sequence[str] | None) -> dict[str, str]:
    """Return the values of these parameters."""
    return {f"queue_{number}": name for number, name in enumerate(queues or ())}
