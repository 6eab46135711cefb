"""What the two sides of a pool share: its options, its listener, how messages are pickled."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .worker_handle import Envelope
from .worker_loop import PICKLE_PROTOCOL, HandlerFactory


class Listener(Protocol):
    """Owner of a pool; called by the pool's thread."""

    def deliver(self, number: int, results: Sequence[Any]) -> None:
        """Take results of a worker; call ``results_done`` when they are dealt with."""

    def report_lost(self, envelopes: Sequence[Envelope], error: BaseException) -> None:
        """These messages will not be done."""

    def space_available(self, number: int) -> None:
        """A worker that was full takes messages again."""


@dataclass(frozen=True)
class PoolOptions:
    """Options of a pool.

    factory: makes the handler in each process; has to be picklable but for the method ``fork``.
    max_tasks: messages that wait, and as many again that are under way, over all workers, of
    which each has an equal share; None: no bound.
    max_results: results of all workers that are not dealt with; None: no bound.
    redeliver: whether a dead worker's messages go to its successor, or are lost.
    start_method: of multiprocessing; None: its default.
    """

    size: int
    factory: HandlerFactory
    max_tasks: int | None = None
    max_results: int | None = None
    redeliver: bool = True
    start_method: str | None = None

    def __post_init__(self) -> None:
        for name in ("size", "max_tasks", "max_results"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"expected a whole {name} of at least 1, got {value!r}")


def pack(message: object) -> bytes:
    """Pickle a message; raises what pickle has against it."""
    return pickle.dumps(message, PICKLE_PROTOCOL)


def unpack(payload: bytes) -> Any:
    """Return the message; raises whatever its classes do."""
    return pickle.loads(payload)
