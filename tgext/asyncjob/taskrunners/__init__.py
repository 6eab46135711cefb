"""Taskrunners: a function that runs elsewhere when it is called, as strand has them.

Where it runs (a thread, a process, an event loop, whoever reads a store) is an executor's affair;
here are the names, the callbacks and what is given when.
"""

from .coroutines import CoroutineTaskrunner
from .dispatch import TaskDispatcher
from .runners import MultiprocessTaskrunner, Taskrunner, ThreadTaskrunner
from .stored import StoreTaskReader, StoreTaskWriter
from .targets import as_task

__all__ = [
    "CoroutineTaskrunner",
    "MultiprocessTaskrunner",
    "StoreTaskReader",
    "StoreTaskWriter",
    "TaskDispatcher",
    "Taskrunner",
    "ThreadTaskrunner",
    "as_task",
]
