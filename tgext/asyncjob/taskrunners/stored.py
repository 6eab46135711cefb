"""Write a call into a store, and run the calls in a store.

**Only its owner may be able to write to a store that holds pickled functions**: reading such an
entry runs whatever code is in it. If others can write to it too, give writer and reader the same
``secret``: entries are then JSON and signed, and an entry that was not written with the secret is
marked as an error, unopened. Entries are described in ``executors/store_entries.py``.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from typing import Any

from ..call import path_of
from ..errors import ConfigError
from ..executors.store import EntryMonitor
from ..executors.store_entries import COMPLETE, ERROR, Entries, Entry
from ..executors.store_reader import StoreReader, shared_store
from .runners import Callback, Callbacks, Taskrunner, call_back, tell_and_raise

log = logging.getLogger(__name__)

Store = MutableMapping[str, Any]


class StoreTaskReader:
    """Runs the entries that a StoreTaskWriter wrote into *store*, oldest first.

    get_task_func: called with an entry, returns its function; None: entries hold pickled functions,
    so only the owner may be able to write to *store*, or *secret* is the writers' secret.
    unpickle: reads a function of bytes (``dill.loads``); None: ``pickle.loads``.
    claim: called with key and entry, returns whether this reader is to run it; needed if several
    processes read one store, since a mapping cannot decide that; None: it runs all.
    poll_seconds: between two scans. threads: entries that run at once.
    Raises ConfigError for a store that is no mapping, and numbers that are not above 0.

    An entry becomes ``running``, then ``complete`` with a ``result``, or ``error`` with the
    traceback as ``error``; if its reader dies, it stays ``running``. Entries stay in the store
    until they are removed. Values that are no entries are left alone.
    """

    def __init__(  # noqa: PLR0913 - a reader has so many options
        self,
        store: Store,
        get_task_func: Callable[[Entry], Any] | None = None,
        *,
        secret: str | None = None,
        unpickle: Callable[[bytes], Any] | None = None,
        claim: Callable[[str, Entry], bool] | None = None,
        poll_seconds: float = 0.05,
        threads: int = 1,
    ) -> None:
        self._reader = StoreReader(
            store,
            Entries(secret, unpickle),
            get_task_func and functools.partial(_found_by, get_task_func),
            claim=claim,
            poll_seconds=poll_seconds,
            threads=threads,
        )

    def listen(self) -> None:
        """Read the store in a thread that keeps the program alive, until ``stop``."""
        self._reader.listen()

    def stop(self, timeout: float | None = None) -> bool:
        """Take no further entry; return whether those that run have ended, after *timeout* seconds.

        timeout: None: wait until they have.
        """
        return self._reader.stop(timeout)

    def run_pending(self, limit: int | None = None) -> int:
        """Run new entries, in this thread; return how many. limit: at most; None: no limit."""
        return self._reader.run_pending(limit)

    def __enter__(self) -> StoreTaskReader:
        self.listen()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


class StoreTaskWriter(Taskrunner):
    """Writes a call into *store*, for a reader elsewhere or later, and returns its key.

    read_store: a store for which this writer makes a reader in this process, which listens from now
    on, is ``reader`` and finds the function by its name; or a StoreTaskReader to use instead.
    pickle_func: store the function, not only its name; or a function that returns bytes for it
    (``dill.dumps``). **Without a secret only the owner may then be able to write to the store.**
    The callbacks are stored with it and called by its reader; if only the name is stored, only the
    reader of ``read_store`` knows them.
    get_result: called with a key, returns the ``result``; None: it is read from the store.
    secret: signs the entries.
    Raises ConfigError without a store, and for callbacks that no reader would know.
    """

    task_id: str | None = None  #: the key of the last entry; None: there is none

    def __init__(
        self,
        /,
        func: Callable[..., Any],
        store: Store | None = None,
        *init_args: Any,
        read_store: Store | StoreTaskReader | None = None,
        pickle_func: bool | Callable[[Any], bytes] = False,
        get_result: Callable[[str], Any] | None = None,
        secret: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(func, *init_args, **options)
        if store is None:
            raise ConfigError(
                f"expected store= for the task {path_of(func)}, got none: give the mapping that "
                "its reader reads"
            )
        self._shared = shared_store(store)
        self._entries = Entries(secret)
        self._monitor = EntryMonitor(self._shared, self._entries)
        self._pickle_func = pickle_func
        self._get_result = get_result
        self._has_warned = False
        self.reader = self._reader_of(read_store, secret)
        if any(self.callbacks) and not pickle_func and self.reader is None:
            raise ConfigError(
                f"expected pickle_func=True or read_store= for {path_of(func)}: its callbacks are "
                "called where the function runs, and only its name would be stored"
            )

    def __call__(self, /, *args: Any, task_id: str | None = None, **kwargs: Any) -> str:
        """Write the call; return its key: *task_id*, or a new one.

        Raises NotSerializable, and what the store raises.
        """
        key, entry = self._entry(task_id, args, kwargs)
        with self._shared.lock:
            self._shared.store[key] = entry
        return key

    def submit(self, /, *args: Any, task_id: str | None = None, **kwargs: Any) -> Future[Any]:
        """Call this writer; return the future of the result that a reader writes."""
        if task_id is not None:
            kwargs = {**kwargs, "task_id": task_id}
        key = self(*args, **kwargs) or self.task_id  # a subclass may return nothing, as with strand
        if key is None:
            raise RuntimeError(f"expected {type(self).__name__} to write a task, got none")
        return self._monitor.follow(key, self._name)

    @property
    def status(self) -> str | None:
        """``new``, ``running``, ``complete`` or ``error``, of the last entry.

        None: there is no entry, or it was removed.
        """
        entry = self._last()
        return None if entry is None else entry.get("task_status")

    @property
    def result(self) -> Any:
        """The result of the last entry; None: it has not ended, or was removed.

        Raises what the call raised, and BadSignature.
        """
        if self._get_result is not None and self.task_id is not None:
            return self._get_result(self.task_id)
        entry = self._last()
        if self.task_id is None or entry is None:
            return None
        is_over = entry.get("task_status") in (COMPLETE, ERROR)
        return self._entries.outcome(self.task_id, entry) if is_over else None

    def _last(self) -> Entry | None:
        if self.task_id is None:
            return None
        with self._shared.lock:
            return self._shared.get(self.task_id)

    def _entry(self, task_id: str | None, args: Any, kwargs: Any) -> tuple[str, Entry]:
        key = task_id or str(uuid.uuid4())
        name = self._name
        func: Callable[..., Any] | bytes | None = None
        if self._pickle_func:
            func = self.stored_function()
            if callable(self._pickle_func):
                func = self._pickle_func(func)
        if self._shared.has_no_reader() and not self._has_warned:
            self._has_warned = True
            log.warning(
                "task %s: %s waits in a dict that nothing in this process reads yet; "
                "start a reader: StoreTaskReader(store).listen()",
                key,
                name,
            )
        given = (self._init_args, args, self._init_kwargs, kwargs)
        entry = self._entries.write(key, name, func, given)
        self.task_id = key
        return key, entry

    def stored_function(self) -> Callable[..., Any]:
        """Return what a reader calls: the function, with its callbacks if there are any."""
        if not any(self.callbacks):
            return self.func
        on_iter, on_end, on_error = self.callbacks
        # on_error does not keep the error from the reader, which marks the entry.
        tell = None if on_error is None else functools.partial(tell_and_raise, on_error)
        return functools.partial(run_stored, self.func, (on_iter, on_end, tell))

    def _reader_of(self, read_store: Any, secret: str | None) -> StoreTaskReader | None:
        if read_store is None:
            return None
        reader = read_store
        if not isinstance(read_store, StoreTaskReader):
            reader = StoreTaskReader(read_store, self._find, secret=secret, claim=self._knows)
        reader.listen()
        return reader  # type: ignore[no-any-return]

    def _find(self, entry: Entry) -> Any:
        """Return the function of an entry, for the reader that this writer has made."""
        return self.stored_function() if entry.get("name") == self._name else None

    def _knows(self, _key: str, entry: Entry) -> bool:
        # Entries with the names of other writers are for the readers of those.
        return entry.get("func") is not None or entry.get("name") == self._name

    @property
    def _name(self) -> str:
        return str(getattr(self.func, "__name__", type(self.func).__name__))


def _found_by(get_task_func: Callable[[Entry], Any], entry: Entry) -> Any:
    """Return the function of an entry; what a runner runs, if a decorator put one in its place."""
    found = get_task_func(entry)
    if isinstance(found, StoreTaskWriter):
        return found.stored_function()  # the writer itself would write it again
    return functools.partial(_run_here, found) if isinstance(found, Taskrunner) else found


def _run_here(runner: Taskrunner, /, *args: Any, **kwargs: Any) -> Any:
    return runner._run_here(args, kwargs)


def run_stored(
    func: Callable[..., Any],
    callbacks: tuple[Callback | None, Callback | None, Callback | None],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a function with the callbacks that were stored with it."""
    return call_back(Callbacks(*callbacks), func, args, kwargs)
