"""Run a function with its callbacks, in the calling thread, in a new thread or in a new process.

``call_back`` alone decides which callback is called when; ``call_back_async`` does the same on an
event loop, if the function or a callback is a coroutine function.
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
    """The callbacks of a function; None: there is none."""

    on_iter: Callback | None = None  #: called with each item of the result
    on_end: Callback | None = None  #: called with the result
    on_error: Callback | None = None  #: called with what the function, or another callback, raised


def call_back(callbacks: Callbacks, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call *func* and its callbacks; return its result, None after an error.

    Raises what *func* or a callback raised, unless there is an ``on_error``.
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
    """Do as ``call_back``, and await awaitables. yields: whether to the loop after each item."""
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
    """Return an iterator of *result*; an empty one if it is not iterable."""
    try:
        return iter(result)
    except TypeError:
        if isinstance(result, Iterable):
            raise
        return iter(())


def is_async(function: object) -> bool:
    """Return whether *function*, or its ``__call__``, is a coroutine function."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method itself is needed
    )


def tell_and_raise(on_error: Callback, error: Exception) -> None:
    """Call *on_error*, and raise *error* all the same, so that it is recorded."""
    finish(on_error(error))
    raise error


class Taskrunner:
    """Calls *func* in the calling thread, with ``(*init_args, *args, **init_kwargs, **kwargs)``.

    on_iter: called with every item, if *func* returned an iterable. on_end: called with the result.
    on_error: called with what *func* or another callback raised; None: it is raised. All four may
    be coroutine functions. Raises BadCall if *func* cannot be called.

    A subclass that runs elsewhere overrides ``__call__``, and calls ``Taskrunner.__call__`` there.
    """

    _heard: Future[Any] | None = (
        None  #: of a copy that ``submit`` has made: the future of its outcome
    )
    _original: Taskrunner | None = None  #: the runner that it is a copy of

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
        # The names are strand's, which subclasses use; callbacks may be assigned before a call.
        self._func = func
        self._on_iter, self._on_end, self._on_error = on_iter, on_end, on_error
        self._init_args = init_args
        self._init_kwargs = init_kwargs

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function with its callbacks in this thread.

        Returns its result, None after an error that ``on_error`` was called with. Every runner
        calls this method at the place where it runs the function.
        """
        heard = self._heard
        if heard is None or heard.done():
            return call_back(self.callbacks, self._bound, args, kwargs)
        try:
            result = call_back(self.callbacks, self._bound, args, kwargs)
        except BaseException as error:
            heard.set_exception(error)
            if isinstance(error, Exception):
                return None  # the future raises it
            raise
        heard.set_result(result)
        return result

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a copy of this runner; return the future of the function's result.

        Raises what the call raises before the function runs.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        runner = object.__new__(type(self))  # a copy: this one may be called meanwhile
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
        """The callbacks of the function."""
        return Callbacks(self._on_iter, self._on_end, self._on_error)

    @property
    def _bound(self) -> Callable[..., Any]:
        # Not a partial with the keywords: one that is given twice must be an error.
        if not self._init_kwargs:
            return functools.partial(self._func, *self._init_args)
        return functools.partial(_call, self._func, self._init_args, self._init_kwargs)

    def _run_here(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function with its callbacks in this thread, also if a call runs it elsewhere."""
        return Taskrunner.__call__(self, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_heard": None, "_original": None}  # a future cannot be pickled

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a runner by its name, as functions are, if a decorator put it in their place."""
        name = getattr(self, "__qualname__", None)
        found: Any = sys.modules.get(self.__module__)
        for part in (name or "").split("."):
            found = getattr(found, part, None)
        return name if found is (self._original or self) else super().__reduce_ex__(protocol)


def _call(func: Any, init_args: Any, init_kwargs: Any, /, *args: Any, **kwargs: Any) -> Any:
    return func(*init_args, *args, **init_kwargs, **kwargs)


def _end_with(future: Future[Any], ended: Future[Any]) -> None:
    """Settle *future* as the future that has ended, unless the function has done so."""
    if future.done():
        return
    error = CancelledError() if ended.cancelled() else ended.exception()
    if error is None:
        future.set_result(ended.result())
    else:
        future.set_exception(error)


class ThreadTaskrunner(Taskrunner):
    """Runs the function in a new thread, and returns the future of its result.

    The exit of the program waits for the thread. Without an ``on_error`` an error is raised by the
    future, and logged.
    """

    def run(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function, in the thread; override it to do something before or after."""
        return Taskrunner.__call__(self, *args, **kwargs)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start the thread; return a ``concurrent.futures.Future`` of the result of ``run``."""
        future = self._start(args, kwargs)
        if self._heard is None and self._on_error is None:
            future.add_done_callback(self._log_error)
        return future

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="asyncjob-task")
        future = pool.submit(functools.partial(self.run, *args, **kwargs))
        pool.shutdown(wait=False)  # its thread ends with its only call
        return future

    def _log_error(self, future: Future[Any]) -> None:
        if future.cancelled() or (error := future.exception()) is None:
            return
        log.error("%s failed, and has no on_error", path_of(self._func), exc_info=error)


class MultiprocessTaskrunner(ThreadTaskrunner):
    """Runs the function in a new process; its callbacks run there, too.

    check_func: whether to raise NotSerializable for a function or callback that a new process
    cannot import; False: where processes are forked, any function can be used.

    The future returns the function's result, if that can be pickled; None for an iterator that
    ``on_iter`` has consumed. It raises BadCall for a generator that was not consumed.
    """

    #: ``fork``, ``spawn``, ``forkserver``; None: that of the program, else the last.
    start_method: str | None = None

    def __init__(
        self, /, func: Callable[..., Any], *init_args: Any, check_func: bool = True, **options: Any
    ) -> None:
        super().__init__(func, *init_args, **options)
        for function in (self._func, *self.callbacks):
            why = why_not_found(function) if check_func and function is not None else None
            if why is not None:
                raise NotSerializable(
                    f"expected functions that a new process can import, but {why}; move it to a "
                    "module, use ThreadTaskrunner, or give check_func=False if processes are forked"
                )

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        executor = NewProcessExecutor(self.start_method)
        try:
            return executor.submit(self._run_there, args, kwargs)
        finally:
            executor.shutdown(wait=False)

    def _run_there(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._heard = None  # the future is in the other process
        result = self.run(*args, **kwargs)
        check_done(result)
        return None if isinstance(result, (Iterator, AsyncIterable)) else result
