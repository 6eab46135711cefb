"""A stored call that is read when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...call import Call


class UnopenedCall:
    """A stored call whose arguments are read at their first access; its name is there at once.

    So a page that polls the status of a job imports and unpickles nothing.
    """

    def __init__(
        self, name: str, load: Callable[[], Call], row: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        #: the row of a job that is about to be enqueued
        self.row = row
        self._open = load
        self._call: Call | None = None

    def __eq__(self, other: object) -> bool:
        opened = other._opened() if isinstance(other, UnopenedCall) else other
        return bool(self._opened() == opened)

    __hash__ = None  # type: ignore[assignment]

    def _opened(self) -> Call:
        if self._call is None:
            self._call = self._open()
        return self._call

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._opened(), name)
