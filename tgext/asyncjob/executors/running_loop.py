"""Which event loop runs in this thread; and a coroutine run to its end where none does.

For callers that need the result in their own thread: a task of a store, a taskrunner outside a
loop. A CoroutineExecutor would run it in a thread of its own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Any


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, None if none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def awaitable_of(value: Any) -> Awaitable[Any] | None:
    """Return what is to be awaited of *value*, which may be an executor's future; None: nothing.

    On a running loop.
    """
    if isinstance(value, Future):
        return asyncio.wrap_future(value)
    return value if inspect.isawaitable(value) else None


def finish(value: Any) -> Any:
    """Return *value*; what it comes to, on an event loop of its own, if it is awaitable.

    Raises RuntimeError inside a running loop, which waiting here would stop.
    """
    if not inspect.isawaitable(value):
        return value
    if running_loop() is not None:
        if inspect.iscoroutine(value):
            value.close()  # else Python warns that it was never awaited
        raise RuntimeError(
            "expected a plain function inside a running event loop, got a coroutine, which "
            "waiting here would never let run; await it, as CoroutineTaskrunner does, or use "
            "a thread"
        )
    return asyncio.run(settled(value))


async def settled(value: Any) -> Any:
    """Return *value*; what it comes to, if it is awaitable."""
    return await value if inspect.isawaitable(value) else value
