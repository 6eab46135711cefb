"""Slacker and Postponed: they record attribute access, calls, items and slices.

Every use of a Slacker starts a new chain, and a chain is never changed: each step returns a new
Postponed. Names that begin and end with two underscores are not recorded, since Python itself looks
them up; so the attributes of these classes have such names.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Executor
from typing import Any

from ..call import Call
from ..executors.chain import Chain, replay
from .outcome import Fetched, call_back, fetched
from .workers import DummyWorker


class _Recorder:
    """The recording that Slacker and Postponed share."""

    __slots__ = ("__asyncjob_chain__", "__asyncjob_worker__", "__weakref__")

    __asyncjob_chain__: Chain
    __asyncjob_worker__: Executor | None

    def __init__(self, chain: Chain, worker: Executor | None) -> None:
        self.__asyncjob_chain__ = chain
        self.__asyncjob_worker__ = worker

    def __getattr__(self, name: str) -> Postponed:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"a {type(self).__name__} records no attribute {name!r}")
        return Postponed(self.__asyncjob_chain__.get(name), self.__asyncjob_worker__)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Postponed:
        return Postponed(self.__asyncjob_chain__.call(args, kwargs), self.__asyncjob_worker__)

    def __getitem__(self, key: Any) -> Postponed:
        return Postponed(self.__asyncjob_chain__.item(key), self.__asyncjob_worker__)

    # Else Python would iterate by asking for items 0, 1, ..., and would never end.
    __iter__ = None
    __contains__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Without its worker: it runs in the process that unpickles it.
        return _recorder_of, (type(self), self.__asyncjob_chain__)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__asyncjob_chain__}>"


class Slacker(_Recorder):
    """Represents an object, and records operations on it.

    obj: any object that can be pickled: a function or class of a module, a module, an instance.
    worker: the executor that runs the chains; None: they run at once, in the calling thread.
    """

    __slots__ = ()

    def __init__(self, obj: Any, worker: Executor | None = None) -> None:
        super().__init__(Chain(obj), worker)

    def __asyncjob_call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return Call(self.__asyncjob_chain__.base, args, kwargs or None)


class Postponed(_Recorder):
    """A chain, and the worker that will run it; it may be run several times.

    It can be awaited, yielded in a ``@process``, and given to ``asyncjob_perform``. Two names are
    its own methods, which it therefore does not record: ``proceed`` and ``fetch``.

    obj: an object, as for a Slacker, or a chain. worker: as for a Slacker.
    """

    __slots__ = ()

    def __init__(self, obj: Any, worker: Executor | None = None) -> None:
        super().__init__(obj if isinstance(obj, Chain) else Chain(obj), worker)

    def fetch(self, worker: Executor | None = None) -> Fetched:
        """Run the chain; return the future of its result.

        worker: None: that of the Slacker. Raises what the worker's ``submit`` raises, for example
        RuntimeError after its shutdown.
        """
        return fetched(self.__submit(worker))

    def proceed(
        self, callback: Callable[[Any], Any] | None = None, worker: Executor | None = None
    ) -> None:
        """Run the chain; call *callback* with the result, or with the exception that was raised.

        The callback is called on the event loop of this thread, running or to be started; without
        a loop in the thread where the work ended. callback: None: an exception is logged. worker,
        and what is raised: as for ``fetch``.
        """
        call_back(self.__submit(worker), callback)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.fetch().__await__()

    def __submit(self, worker: Executor | None) -> Any:
        chosen = self.__asyncjob_worker__ if worker is None else worker
        return (DummyWorker() if chosen is None else chosen).submit(self.__asyncjob_chain__)

    def __asyncjob_call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        # Not the chain itself: a store of jobs looks into the parts of a call.
        chain = self.__asyncjob_chain__
        return Call(replay, (chain.base, chain.steps, *args), kwargs or None)


def _recorder_of(kind: type[_Recorder], chain: Chain) -> _Recorder:
    made = kind.__new__(kind)
    _Recorder.__init__(made, chain, None)
    return made
