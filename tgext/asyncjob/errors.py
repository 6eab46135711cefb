"""The errors of the package: one tree; each is also a builtin exception of the same meaning.

    AsyncJobError
    +-- BadCall          TypeError       the target cannot be called with these arguments
    +-- NotSerializable  TypeError       an argument or a result cannot be stored
    +-- BadSignature     ValueError      a signature does not fit what is signed
    +-- ConfigError      ValueError      an option is unknown, invalid or contradicts another
    +-- MissingExtra     ImportError     an optional package is not installed
    +-- NotInJob         RuntimeError    a function for jobs was called outside a job
    +-- NotCommitted     RuntimeError    waits for a job that this transaction has not committed yet
    +-- QueueClosed      RuntimeError    the queue was closed
    +-- UnknownJob       LookupError     no job with this uid
    +-- QueueFull        queue.Full      more jobs wait than ``max_queued`` allows
    +-- JobCancelled     concurrent.futures.CancelledError   raised inside a job
    +-- JobTimeout       TimeoutError                        raised inside a job
    +-- WorkerCrashed    RuntimeError    the process that ran the job died
    +-- RemoteError      RuntimeError    stands for an exception of another process
    +-- NoReader         TimeoutError    no reader takes a task from its store
    +-- ModuleMissing    ImportError     this process lacks a module that a stored call names
    +-- CallableMissing  LookupError     a module lacks what a stored call names in it
    +-- OtherPython      RuntimeError    another version of Python compiled a stored closure
    +-- Unreadable       ValueError      a stored text is not as this version writes it
    +-- CallRefused      RuntimeError    another server refused a call without opening it
    +-- ServerUnreachable  ConnectionError   another server cannot be reached, or hung up

A message says what was expected, what was found instead, and what to do. The ``args`` of an
exception are the data of its message, so that every error can be pickled.
"""

from __future__ import annotations

import concurrent.futures
import queue


class AsyncJobError(Exception):
    """The base class of all errors that this package raises on purpose."""


class BadCall(AsyncJobError, TypeError):
    """Raised if a target cannot be called, or not with these arguments; mostly at the enqueue.

    Also raised for an argument of the wrong type to a function of this package, and inside a job
    for a generator that it returns without running all its lines.
    """


class NotSerializable(AsyncJobError, TypeError):
    """Raised if an argument (at the enqueue), reported data or a return value (when it is read)
    cannot be stored."""


class BadSignature(AsyncJobError, ValueError):
    """Raised if a stored call or a message was changed, or signed with another secret."""


class ConfigError(AsyncJobError, ValueError):
    """Raised for an option that is unknown, invalid, or contradicts another one, for a session
    or database that a queue cannot use, and if there is no current queue."""


class MissingExtra(AsyncJobError, ImportError):
    """Raised if an optional dependency is needed and not installed.

    feature: what needs it. extra: the name between the brackets of ``pip install``.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature = feature
        self.extra = extra

    def __str__(self) -> str:
        return (
            f"{self.feature} needs packages that are not installed; "
            # with a version: if this one came from a checkout, the index has only older ones
            f"run: pip install 'tgext.asyncjob[{self.extra}]>=1.0.dev0'"
        )


class NotInJob(AsyncJobError, RuntimeError):
    """Raised if a function that works only inside a job is called outside one.

    function: its name.
    """

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function

    def __str__(self) -> str:
        return (
            f"{self.function}() works only inside a job, and none is running in this thread; "
            "call it from the function that was given to asyncjob_perform"
        )


class NotCommitted(AsyncJobError, RuntimeError):
    """Raised if a thread waits for a job that its own transaction has enqueued and not committed.

    uid: that of the job.
    """

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid

    def __str__(self) -> str:
        return (
            f"job {self.uid!r} was enqueued by this transaction and begins only after its commit, "
            "so that waiting here would never end; commit first, or wait in the next request"
        )


class QueueClosed(AsyncJobError, RuntimeError):
    """Raised by an enqueue after the queue's ``close()``."""

    def __str__(self) -> str:
        return "this job queue was closed; enqueue before close(), or make another JobQueue"


class UnknownJob(AsyncJobError, LookupError):
    """Raised if no job that this process can read has the uid.

    uid: the uid. reason: why there is none.
    """

    def __init__(self, uid: object, reason: str) -> None:
        super().__init__(uid, reason)
        self.uid = uid
        self.reason = reason

    def __str__(self) -> str:
        return f"no job {self.uid!r}: {self.reason}"


class QueueFull(AsyncJobError, queue.Full):
    """Raised by an enqueue while ``max_queued`` or more jobs wait.

    waiting: how many jobs wait. max_queued: the option.
    """

    def __init__(self, waiting: int, max_queued: int) -> None:
        super().__init__(waiting, max_queued)
        self.waiting = waiting
        self.max_queued = max_queued

    def __str__(self) -> str:
        return (
            f"{self.waiting} jobs wait and asyncjob.max_queued is {self.max_queued}; "
            "try again later, add workers, or raise the limit"
        )


class JobCancelled(AsyncJobError, concurrent.futures.CancelledError):
    """Raised inside a job at its first checkpoint after it was cancelled."""

    def __str__(self) -> str:
        return "the job was cancelled"


class JobTimeout(AsyncJobError, TimeoutError):
    """Raised inside a job that ran longer than its task's ``timeout``.

    seconds: that timeout; None in the thread of the job, in which only the class can be raised.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(*([] if seconds is None else [seconds]))
        self.seconds = seconds

    def __str__(self) -> str:
        if self.seconds is None:
            return "the job ran longer than its timeout"
        return f"the job ran longer than its timeout of {self.seconds:g} s"


class WorkerCrashed(AsyncJobError, RuntimeError):
    """Recorded as the error of a job whose worker process died while it ran the job."""


class RemoteError(AsyncJobError, RuntimeError):
    """Raised instead of an exception of another process that cannot be rebuilt in this one.

    class_path: ``module.Class`` of that exception. text: its message. traceback: its traceback as
    Python prints it; "" if unknown.
    """

    def __init__(self, class_path: str, text: str, traceback: str = "") -> None:
        super().__init__(class_path, text, traceback)
        self.class_path = class_path
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.class_path}: {self.text}"


class NoReader(AsyncJobError, TimeoutError):
    """Raised if no reader takes a task from the store that it was written to."""

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(task, reason)
        self.task = task
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"expected a reader to take {self.task} from its store, but {self.reason}; "
            "start one: StoreTaskReader(store).listen()"
        )


class Unreadable(AsyncJobError, ValueError):
    """Raised for a stored text that is not as this version of the package writes it."""


class OtherPython(AsyncJobError, RuntimeError):
    """Raised for a stored closure that another version of Python has compiled."""

    def __init__(self, function: str, stored: str, here: str) -> None:
        super().__init__(function, stored, here)
        self.function = function
        self.stored = stored
        self.here = here

    def __str__(self) -> str:
        return (
            f"expected the code of {self.function} for {self.here}, which runs here, but "
            f"{self.stored} stored it; run the job on a worker with that version, or give a "
            "module-level function, which any version finds by its path"
        )


class ModuleMissing(AsyncJobError, ImportError):
    """Raised if this process does not have a module that a stored call names.

    Another worker may have it. module: the module that is named. missing: that module, or the
    package around it that is missing.
    """

    def __init__(self, module: str, missing: str) -> None:
        super().__init__(module, missing)
        self.module = module
        self.missing = missing

    def __str__(self) -> str:
        return (
            f"expected the module {self.module!r}, which a stored call names, but this process has "
            f"no {self.missing!r}; run the job on a worker that has it, or install it here"
        )


class CallableMissing(AsyncJobError, LookupError):
    """Raised if a module has no such object as a stored call names in it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"expected {self.path!r}, which a stored call names, but {self.reason}; "
            "put it back under that name, or enqueue the job again"
        )


class CallRefused(AsyncJobError, RuntimeError):
    """Raised if another server refused a call; nothing of it was opened or run there.

    status: that of the HTTP response. reason: the message of that server.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"the server refused the call with status {self.status}: {self.reason}"


class ServerUnreachable(AsyncJobError, ConnectionError):
    """Raised if another server cannot be reached, or the connection is lost.

    The message says whether the call may have run there.
    """
