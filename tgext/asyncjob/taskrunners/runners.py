"""A function with its callbacks, run here, in a thread or in a process of its own.

``call_back`` is the one place that says which callback is called when; where the function is a
coroutine, or a callback is, the same is done by ``call_back_async`` on an event loop.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from ..call import check_done, path_of
from ..errors import BadCall, NotSerializable
from ..executors.newprocess import NewProcessExecutor, why_not_found
from ..executors.running_loop import finish, settled

log = logging.getLogger(__name__)

Callback = Callable[[Any], Any]


class Callbacks(NamedTuple):
    """What is called besides the function; None: nothing is."""

    on_iter: Callback | None = None  #: with each item of what it returned
    on_end: Callback | None = None  #: with what it returned
    on_error: Callback | None = None  #: with what it, or a callback, raised


def call_back(callbacks: Callbacks, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call *func* and its callbacks; return what it returned, None after an error.

    Raises what it or a callback raised, unless there is an ``on_error``.
    """
    if any(map(is_async, (func, *callbacks))):
        return finish(call_back_async(callbacks, func, args, kwargs))
    on_iter, on_end, on_error = callbacks
    try:
        result = finish(func(*args, **kwargs))
        if on_iter is not None and isinstance(result, AsyncIterable):
            finish(_give_items(result, on_iter, yields=False))
        elif on_iter is not None:
            for item in _items(result):
                on_iter(item)
        if on_end is not None:
            on_end(result)
    except Exception as error:
        if on_error is None:
            raise
        on_error(error)
        return None
    return result


async def call_back_async(
    callbacks: Callbacks,
    func: Callable[..., Any],
    args: Any,
    kwargs: Any,
    *,
    yields: bool = False,
) -> Any:
    """Do as ``call_back``, and await what is awaitable. yields: to the loop after each item."""
    on_iter, on_end, on_error = callbacks
    try:
        result = await settled(func(*args, **kwargs))
        if on_iter is not None:
            await _give_items(result, on_iter, yields=yields)
        if on_end is not None:
            await settled(on_end(result))
    except Exception as error:
        if on_error is None:
            raise
        await settled(on_error(error))
        return None
    return result


async def _give_items(result: Any, on_iter: Callback, *, yields: bool) -> None:
    async for item in _items_async(result):
        await settled(on_iter(item))
        if yields:
            await asyncio.sleep(0)


async def _items_async(result: Any) -> Any:
    if isinstance(result, AsyncIterable):
        async for item in result:
            yield item
    else:
        for item in _items(result):
            yield item


def _items(result: Any) -> Iterator[Any]:
    """The items of what a function returned; none of what is no iterable."""
    try:
        return iter(result)
    except TypeError:
        if isinstance(result, Iterable):
            raise
        return iter(())


def is_async(function: object) -> bool:
    """Tell whether calling *function* gives something to be awaited, as far as can be seen."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - not whether it can be called, but how
    )


def tell_and_raise(on_error: Callback, error: Exception) -> None:
    """Call *on_error*, and raise the error all the same, so that it is recorded."""
    finish(on_error(error))
    raise error


class Taskrunner:
    """Calls *func* where it is called, with ``(*init_args, *args, **init_kwargs, **kwargs)``.

    on_iter: called with every item, after *func* has returned something iterable.
    on_end: called with what *func* returned. on_error: with what *func* or one of the others
    raised, which is raised otherwise. Coroutine functions are awaited, all four.

    A subclass that runs elsewhere overrides ``__call__`` and ends in ``Taskrunner.__call__``.
    """

    _heard: Future[Any] | None = None  #: of a copy that ``submit`` has made: its outcome goes there
    _original: Taskrunner | None = None  #: what it is a copy of

    def __init__(
        self,
        /,
        func: Callable[..., Any],
        *init_args: Any,
        on_iter: Callback | None = None,
        on_end: Callback | None = None,
        on_error: Callback | None = None,
        **init_kwargs: Any,
    ) -> None:
        if not callable(func):
            raise BadCall(
                f"expected a function for {type(self).__name__}, got an instance of "
                f"{path_of(type(func))}; give the function itself, and its arguments after it"
            )
        # Named as strand's, which subclasses use; a callback may be assigned before a call.
        self._func = func
        self._on_iter, self._on_end, self._on_error = on_iter, on_end, on_error
        self._init_args = init_args
        self._init_kwargs = init_kwargs

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function with its callbacks here and now.

        Returns what it returns, None after an error that ``on_error`` got. This is what every
        runner comes to in the end, wherever it has gone before.
        """
        heard = self._heard
        if heard is None or heard.done():
            return call_back(self.callbacks, self._bound, args, kwargs)
        try:
            result = call_back(self.callbacks, self._bound, args, kwargs)
        except BaseException as error:
            heard.set_exception(error)
            if isinstance(error, Exception):
                return None  # it is in the future, as if an on_error had it
            raise
        heard.set_result(result)
        return result

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a copy of this runner; return the future of what the function returns.

        Raises what the call raises before the function runs.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        runner = object.__new__(type(self))  # of its own: others may call this one meanwhile
        vars(runner).update(vars(self), _heard=future, _original=self)
        begun = runner(*args, **kwargs)
        if isinstance(begun, Future):
            begun.add_done_callback(functools.partial(_end_with, future))
        return future

    @property
    def func(self) -> Callable[..., Any]:
        """The function."""
        return self._func

    @property
    def callbacks(self) -> Callbacks:
        """What is called besides it."""
        return Callbacks(self._on_iter, self._on_end, self._on_error)

    @property
    def _bound(self) -> Callable[..., Any]:
        # Not one partial with all: a keyword given twice is an error, as in any call.
        if not self._init_kwargs:
            return functools.partial(self._func, *self._init_args)
        return functools.partial(_call, self._func, self._init_args, self._init_kwargs)

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function with its callbacks in this thread, wherever a call would."""
        return Taskrunner.__call__(self, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_heard": None, "_original": None}  # a future stays in its process

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Send a runner that a decorator put in its function's place by name, as functions are."""
        name = getattr(self, "__qualname__", None)
        found: Any = sys.modules.get(self.__module__)
        for part in (name or "").split("."):
            found = getattr(found, part, None)
        return name if found is (self._original or self) else super().__reduce_ex__(protocol)


def _call(func: Any, init_args: Any, init_kwargs: Any, /, *args: Any, **kwargs: Any) -> Any:
    return func(*init_args, *args, **init_kwargs, **kwargs)


def _end_with(future: Future[Any], ended: Future[Any]) -> None:
    """Give *future* the outcome of one that has ended, where the function has not done so."""
    if future.done():
        return
    error = CancelledError() if ended.cancelled() else ended.exception()
    if error is None:
        future.set_result(ended.result())
    else:
        future.set_exception(error)


class ThreadTaskrunner(Taskrunner):
    """Runs the function in a new thread, and gives the future of what it returns.

    The thread is waited for at the end of the program. An error that has no ``on_error`` is in
    the future, and logged.
    """

    def run(self, /, *args: Any, **kwargs: Any) -> Any:
        """What the thread runs; override it to do something around the function."""
        return Taskrunner.__call__(self, *args, **kwargs)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start the thread; return a ``concurrent.futures.Future`` of what ``run`` returns."""
        future = self._start(args, kwargs)
        if self._heard is None and self._on_error is None:
            future.add_done_callback(self._log_error)
        return future

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="asyncjob-task")
        future = pool.submit(functools.partial(self.run, *args, **kwargs))
        pool.shutdown(wait=False)  # it ends with its only call
        return future

    def _log_error(self, future: Future[Any]) -> None:
        if future.cancelled() or (error := future.exception()) is None:
            return
        log.error("%s failed, and has no on_error", path_of(self._func), exc_info=error)


class MultiprocessTaskrunner(ThreadTaskrunner):
    """Runs the function in a new process; its callbacks run there, too.

    check_func: whether to refuse a function or callback that a new process could not find; where
    processes are forked, False lets them be anything. The future gives what the function
    returned, if it can be pickled; None for an iterator, which ``on_iter`` has used up. A generator
    that was not used up is a BadCall there. Raises NotSerializable.
    """

    #: ``fork``, ``spawn``, ``forkserver``; None: what the program has set or used, else the last.
    start_method: str | None = None

    def __init__(
        self, /, func: Callable[..., Any], *init_args: Any, check_func: bool = True, **options: Any
    ) -> None:
        super().__init__(func, *init_args, **options)
        for function in (self._func, *self.callbacks):
            why = why_not_found(function) if check_func and function is not None else None
            if why is not None:
                raise NotSerializable(
                    f"expected functions that a new process can find, but {why}; move it to a "
                    "module, use ThreadTaskrunner, or give check_func=False where processes fork"
                )

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        executor = NewProcessExecutor(self.start_method)
        try:
            return executor.submit(self._run_there, args, kwargs)
        finally:
            executor.shutdown(wait=False)

    def _run_there(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._heard = None  # it is in the other process, which gets what is raised here
        result = self.run(*args, **kwargs)
        check_done(result)
        return None if isinstance(result, (Iterator, AsyncIterable)) else result
