"""The running event loop of this thread, and coroutines run to their end in this thread.

For callers that need the result in their own thread: a reader of a store, a taskrunner outside a
loop. A CoroutineExecutor would run the coroutine in another thread.
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
    """Return *value* as an awaitable, also if it is an executor's future; None: it is neither.

    Called on a running loop.
    """
    if isinstance(value, Future):
        return asyncio.wrap_future(value)
    return value if inspect.isawaitable(value) else None


def finish(value: Any) -> Any:
    """Return *value*; if it is awaitable, its result, awaited on a new event loop.

    Raises RuntimeError for an awaitable inside a running loop, which waiting here would block.
    """
    if not inspect.isawaitable(value):
        return value
    if running_loop() is not None:
        if inspect.iscoroutine(value):
            value.close()  # else Python warns that it was never awaited
        raise RuntimeError(
            "expected a plain function inside a running event loop, got a coroutine, which could "
            "not run while this thread waits for it; await it, as CoroutineTaskrunner does, or "
            "use a thread"
        )
    return asyncio.run(settled(value))


async def settled(value: Any) -> Any:
    """Return *value*; if it is awaitable, its result."""
    return await value if inspect.isawaitable(value) else value
