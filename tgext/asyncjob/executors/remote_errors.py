"""Send any exception to another process.

Most exceptions can be pickled and arrive as themselves, with the traceback of the other process as
their cause. Some cannot be pickled or unpickled, or their class is missing in the other process:
these arrive as a ``RemoteError`` with class path, text and traceback.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from ..errors import RemoteError
from ..job import TaskError
from ..processes.forked import only_here

Result = TypeVar("Result")


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: its traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Failure(NamedTuple):
    """An exception as strings and bytes, which can always be sent."""

    pickled: bytes | None  #: None: it cannot be pickled and unpickled here
    class_path: str
    text: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe *error*; never raises, whatever its own code does."""
        described = TaskError.of(error)
        return cls(
            _pickled(error),
            described.exception_class_path,
            described.message,
            described.traceback,
        )

    def exception(self) -> BaseException:
        """Return the exception itself if it can be unpickled, else a RemoteError."""
        error = None if self.pickled is None else _unpickled(self.pickled)
        return with_traceback(error or self.stand_in(), self.traceback)

    def stand_in(self) -> RemoteError:
        """Return the RemoteError that replaces the exception."""
        return RemoteError(self.class_path, self.text, self.traceback)


def with_traceback(error: BaseException, text: str) -> BaseException:
    """Return *error* with *text*, its traceback in the other process, as its cause."""
    error.__cause__ = RemoteTraceback(text)
    return error


@only_here
def calling(function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Result:
    """Call *function*, in a process of a pool; whatever it raises can be sent back."""
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        failure = Failure.of(error)
        if failure.pickled is not None:
            raise
        raise failure.stand_in() from None


def _pickled(error: BaseException) -> bytes | None:
    try:
        text = pickle.dumps(error)
    except Exception:  # noqa: BLE001 - the exception's own code runs here
        return None
    # An __init__ whose arguments are not its args fails only when it is unpickled.
    return text if type(_unpickled(text)) is type(error) else None


def _unpickled(text: bytes) -> BaseException | None:
    try:
        error = pickle.loads(text)
    except Exception:  # noqa: BLE001 - as above; or its class is not in this process
        return None
    return error if isinstance(error, BaseException) else None
