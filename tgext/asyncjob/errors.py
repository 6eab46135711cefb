"""The errors of the package: one tree, each also under the builtin that one would catch.

    AsyncJobError
    +-- BadCall          TypeError       what was given cannot be called like that
    +-- NotSerializable  TypeError       an argument or a result that cannot outlive its session
    +-- BadSignature     ValueError      a stored call whose signature does not fit
    +-- ConfigError      ValueError      an option that is unknown, malformed or contradicts another
    +-- MissingExtra     ImportError     a package that only some users need is not installed
    +-- NotInJob         RuntimeError    asked outside a job for what only a job has
    +-- NotCommitted     RuntimeError    would wait for what this very transaction has yet to commit
    +-- QueueClosed      RuntimeError    the queue was closed
    +-- UnknownJob       LookupError     no job with this uid
    +-- QueueFull        queue.Full      more jobs wait than ``max_queued`` allows
    +-- JobCancelled     concurrent.futures.CancelledError   raised inside a job
    +-- JobTimeout       TimeoutError                        raised inside a job
    +-- WorkerCrashed    RuntimeError    the process that ran the job died
    +-- RemoteError      RuntimeError    stands for an exception that could not travel
    +-- NoReader         TimeoutError    no reader takes a task from its store
    +-- ModuleMissing    ImportError     a stored call names a module that is not here
    +-- CallableMissing  LookupError     a stored call names what its module no longer has
    +-- OtherPython      RuntimeError    another version of Python compiled a stored closure
    +-- Unreadable       ValueError      a stored text that this version does not write
    +-- CallRefused      RuntimeError    another server refused a call, unopened
    +-- ServerUnreachable  ConnectionError   another server could not be reached, or gave up

A message says what was expected, what came, and what to do. The data it is made of are the
exception's ``args``, so that every error can be pickled.
"""

from __future__ import annotations

import concurrent.futures
import queue


class AsyncJobError(Exception):
    """The root of all errors that this package raises on purpose."""


class BadCall(AsyncJobError, TypeError):
    """Raised at enqueue when the target is not callable, or not with these arguments."""


class NotSerializable(AsyncJobError, TypeError):
    """Raised for an argument (at enqueue) or a result (when read) that cannot be kept."""


class BadSignature(AsyncJobError, ValueError):
    """Raised when something signed was changed, or signed with another secret."""


class ConfigError(AsyncJobError, ValueError):
    """Raised for an option that is unknown, malformed, or contradicts another one."""


class MissingExtra(AsyncJobError, ImportError):
    """Raised when an optional dependency is used and not installed.

    feature: what was asked for. extra: the name between the brackets of ``pip install``.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(feature, extra)
        self.feature = feature
        self.extra = extra

    def __str__(self) -> str:
        return (
            f"{self.feature} needs packages that are not installed; "
            # with a version: where this one came from a checkout, the index has only older ones
            f"run: pip install 'tgext.asyncjob[{self.extra}]>=1.0.dev0'"
        )


class NotInJob(AsyncJobError, RuntimeError):
    """Raised outside a job by a function that only means something inside one."""

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function

    def __str__(self) -> str:
        return (
            f"{self.function}() works only inside a job, and none is running in this thread; "
            "call it from the function that was given to asyncjob_perform"
        )


class NotCommitted(AsyncJobError, RuntimeError):
    """Raised when a transaction waits for a job that it has itself enqueued, not committed."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid

    def __str__(self) -> str:
        return (
            f"job {self.uid!r} was enqueued by this transaction and begins only after its commit: "
            "waiting here would wait for ever; commit first, or let the next request ask"
        )


class QueueClosed(AsyncJobError, RuntimeError):
    """Raised by an enqueue on a queue after its ``close()``."""

    def __str__(self) -> str:
        return "this job queue was closed; enqueue before close(), or make another JobQueue"


class UnknownJob(AsyncJobError, LookupError):
    """Raised when a uid belongs to no job that can be asked about here."""

    def __init__(self, uid: object, reason: str) -> None:
        super().__init__(uid, reason)
        self.uid = uid
        self.reason = reason

    def __str__(self) -> str:
        return f"no job {self.uid!r}: {self.reason}"


class QueueFull(AsyncJobError, queue.Full):
    """Raised by an enqueue while ``max_queued`` or more jobs wait."""

    def __init__(self, waiting: int, max_queued: int) -> None:
        super().__init__(waiting, max_queued)
        self.waiting = waiting
        self.max_queued = max_queued

    def __str__(self) -> str:
        return (
            f"{self.waiting} jobs wait and asyncjob.max_queued is {self.max_queued}; "
            "try again later, add workers, or raise the bound"
        )


class JobCancelled(AsyncJobError, concurrent.futures.CancelledError):
    """Raised inside a job at its next checkpoint after it was cancelled."""

    def __str__(self) -> str:
        return "the job was cancelled"


class JobTimeout(AsyncJobError, TimeoutError):
    """Raised inside a job that ran longer than its task's ``timeout``.

    seconds: that timeout; None where the error is raised in the job's own thread, which
    can be given a class only.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(*([] if seconds is None else [seconds]))
        self.seconds = seconds

    def __str__(self) -> str:
        if self.seconds is None:
            return "the job ran longer than its timeout"
        return f"the job ran longer than its timeout of {self.seconds:g} s"


class WorkerCrashed(AsyncJobError, RuntimeError):
    """Recorded for a job whose worker process died while running it."""


class RemoteError(AsyncJobError, RuntimeError):
    """Raised in place of an exception that another process raised and that cannot come here.

    class_path: ``module.Class`` of that exception. text: its message. traceback: as Python prints
    it there, "" if unknown.
    """

    def __init__(self, class_path: str, text: str, traceback: str = "") -> None:
        super().__init__(class_path, text, traceback)
        self.class_path = class_path
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.class_path}: {self.text}"


class NoReader(AsyncJobError, TimeoutError):
    """Raised when no reader takes a task from the store that it was written to."""

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
    """Raised for a stored text that is not what this version of the package writes."""


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
    """Raised when this process does not have a module that a stored call names.

    Says nothing against the call: another worker may have it.
    module: the one that is named. missing: it, or the package above it that is not here.
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
    """Raised when a module is there, but what a stored call names in it is not."""

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
    """Raised when another server refused a call; nothing of it was opened or run there.

    status: of HTTP. reason: what that server says.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"the server refused the call with status {self.status}: {self.reason}"


class ServerUnreachable(AsyncJobError, ConnectionError):
    """Raised when another server cannot be reached, or the connection breaks off.

    The message says whether the call may have run there.
    """
