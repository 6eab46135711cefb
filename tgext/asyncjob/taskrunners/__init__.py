"""The seed package strand: taskrunners, objects that run a function elsewhere when called.

An executor runs the function (in a thread, in a process, on an event loop, in a reader of a store).
This package has the public names, the callbacks and their order.
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
