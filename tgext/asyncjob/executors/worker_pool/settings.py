"""The options and the listener of a pool, and the pickling of its messages."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .worker_handle import Envelope
from .worker_loop import PICKLE_PROTOCOL, HandlerFactory


class Listener(Protocol):
    """What a pool calls, in the pool's thread."""

    def deliver(self, number: int, results: Sequence[Any]) -> None:
        """Take results of a worker; call ``results_done`` when they are done."""

    def report_lost(self, envelopes: Sequence[Envelope], error: BaseException) -> None:
        """Take note that these messages will not be done, because of *error*."""

    def space_available(self, number: int) -> None:
        """Take note that a worker that was full accepts messages again."""


@dataclass(frozen=True)
class PoolOptions:
    """Options of a pool.

    size: worker processes. factory: makes the handler in each process; must be picklable, unless
    the start method is ``fork``.
    max_tasks: messages that wait, and as many again that workers have; all workers together, each
    has an equal share; None: no bound.
    max_results: results of all workers that are not done; None: no bound.
    redeliver: whether the messages of a dead worker go to its successor, or are lost.
    start_method: of multiprocessing; None: its default. Raises ValueError for numbers below 1.
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
    """Pickle a message; raises what pickle and the message's own code raise."""
    return pickle.dumps(message, PICKLE_PROTOCOL)


def unpack(payload: bytes) -> Any:
    """Unpickle a message; raises whatever its classes raise."""
    return pickle.loads(payload)
