"""Run the entries of a store, on threads that poll it.

A store is any mapping: only items are read, set, deleted and listed. All users of a store in this
process share one ``SharedStore``: its lock makes taking an entry atomic among the readers here, and
lets threads use a mapping that is not thread-safe (``shelve``). Between processes nothing is
atomic: give each process its own store, or a ``claim`` that the store's server decides.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from ..call import check_done
from ..errors import ConfigError
from ..processes.forked import only_here
from .bounds import check_bound
from .running_loop import finish
from .store_entries import NEW, RUNNING, Entries, Entry

log = logging.getLogger(__name__)

Store = MutableMapping[str, Any]

#: A pause is at least so many times as long as the scan before it: scans of a large or slow store
#: take a tenth of a reader's time at most.
_PAUSES_PER_SCAN = 10

#: Seconds between two scans of a store that raised: its server may be restarting.
PAUSE_AFTER_ERROR_SECONDS = 1.0


class SharedStore:
    """One store, with the lock and the readers that all its users in this process share."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lock = threading.RLock()  #: held for every use of the store
        self.readers: WeakSet[StoreReader] = WeakSet()

    def get(self, key: str) -> Entry | None:
        """Return an entry; None: there is none, or another value, under this key."""
        try:
            entry = self.store[key]
        except KeyError:
            return None
        return entry if isinstance(entry, dict) else None

    def has_no_reader(self) -> bool:
        """Whether the store is a dict, which no other process sees, without a reader here."""
        return type(self.store) is dict and not self.readers


# By the identity of the store, which lives as long as its SharedStore does.
_shared: WeakValueDictionary[int, SharedStore] = WeakValueDictionary()
_shared_lock = threading.Lock()


def shared_store(store: Any) -> SharedStore:
    """Return the SharedStore of *store*. Raises ConfigError if it is no mutable mapping."""
    needed = ("__getitem__", "__setitem__", "__delitem__", "__iter__", "keys")
    if not all(hasattr(store, name) for name in needed):
        raise ConfigError(
            "expected as store= a mapping that can be changed (a dict, a shelf, Redis through a "
            f"mapping), got {'None' if store is None else f'a {type(store).__name__}'}"
        )
    with _shared_lock:
        found = _shared.get(id(store))
        if found is None:
            found = _shared[id(store)] = SharedStore(store)
        return found


class StoreReader:
    """Takes new entries of a store, oldest first, and runs them.

    get_task_func: returns the function of an entry; None: it is in the entry. claim: called with
    key and entry, returns whether this reader is to run it; None: it runs all. poll_seconds:
    between two scans. threads: how many entries run at once after ``listen``.
    Raises ConfigError for a store that is no mapping, and bounds that are not above 0.
    """

    def __init__(
        self,
        store: Store,
        entries: Entries,
        get_task_func: Callable[[Entry], Any] | None = None,
        *,
        claim: Callable[[str, Entry], bool] | None = None,
        poll_seconds: float = 0.05,
        threads: int = 1,
    ) -> None:
        check_bound("poll_seconds", poll_seconds)
        check_bound("threads", threads)
        self._shared = shared_store(store)
        self._shared.readers.add(self)
        self._entries = entries
        self._get_task_func = get_task_func
        self._claim = claim
        self._poll_seconds = poll_seconds
        self._threads = threads
        self.on_ended: Callable[[], object] = bool  #: called after each entry that ended
        self._lock = threading.RLock()
        self._found: deque[str] = deque()  #: keys of new entries, under the lock of the store
        self._warned_of: set[Any] = set()
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._listeners: list[threading.Thread] = []

    def run_pending(self, limit: int | None = None) -> int:
        """Run new entries, in this thread; return how many.

        limit: how many at most; None: no limit. Raises what the store raises, and
        KeyboardInterrupt; what a task raises is written into its entry.
        """
        ran = 0
        while (limit is None or ran < limit) and self._run_next():
            ran += 1
        return ran

    def listen(self) -> None:
        """Start threads that run new entries until ``stop``. A second call does nothing.

        The threads keep the program alive.
        """
        with self._lock:
            if self._listeners and not self._stopping.is_set():
                return
            self._stopping = threading.Event()
            self._listeners = [
                threading.Thread(
                    target=self._loop, args=(self._stopping,), name=f"asyncjob-store-reader-{n}"
                )
                for n in range(self._threads)
            ]
            for thread in self._listeners:
                thread.start()

    def wake(self) -> None:
        """Scan at once, without waiting for the end of the pause."""
        self._woken.set()

    def stop(self, timeout: float | None = None) -> bool:
        """Take no further entry; return whether those that run have ended, after *timeout* seconds.

        timeout: None: wait until they have. A task that stops its own reader does not wait for
        itself.
        """
        with self._lock:
            self._stopping.set()
            listeners = list(self._listeners)
        self._woken.set()
        until = None if timeout is None else time.monotonic() + timeout
        for thread in listeners:
            if thread is not threading.current_thread():
                thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in listeners)

    # -- the loop

    def _loop(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self._woken.clear()  # before the scan, so that no wake-up during it is missed
            began = time.monotonic()
            try:
                if self._run_next():
                    continue
                took = time.monotonic() - began
                pause = max(self._poll_seconds, took * _PAUSES_PER_SCAN)
            except Exception:  # a store may raise anything, and work again later
                pause = max(self._poll_seconds, PAUSE_AFTER_ERROR_SECONDS)
                log.exception("a store cannot be used; the next scan is in %g s", pause)
            if not stopping.is_set():
                self._woken.wait(pause)

    def _run_next(self) -> bool:
        taken = self._take()
        if taken is None:
            return False
        key, entry = taken
        try:
            function, args, kwargs = self._entries.read(key, entry, self._get_task_func)
            value = only_here(lambda: finish(function(*args, **kwargs)))()
            check_done(value)
        except BaseException as error:  # a SystemExit ends its task, not the reader
            log.info("task %s: %s failed: %s", key, entry.get("name"), type(error).__name__)
            failed = self._entries.failed(key, entry, error)
            self._write(key, failed, lambda _: {**failed, "exception": None})
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            completed = self._entries.completed(key, entry, value)
            self._write(key, completed, lambda why: self._entries.unstorable(key, entry, why))
        self.on_ended()
        return True

    def _write(self, key: str, entry: Entry, instead: Callable[[str], Entry]) -> None:
        with self._shared.lock:
            try:
                self._shared.store[key] = entry
            except Exception as error:  # noqa: BLE001 - the store may refuse the value
                self._shared.store[key] = instead(f"{type(error).__name__}: {error}")

    # -- taking

    def _take(self) -> tuple[str, Entry] | None:
        """Take a new entry and mark it as running; None: there is none."""
        with self._shared.lock:
            if not self._found:
                self._found.extend(self._scan())
            while self._found:
                key = self._found.popleft()
                entry = self._new_entry(key)
                if entry is not None and (self._claim is None or self._claim(key, entry)):
                    entry["task_status"] = RUNNING
                    self._shared.store[key] = entry
                    return key, entry
        return None

    def _scan(self) -> list[str]:
        """Return the keys of all new entries, oldest first."""
        found = []
        for number, key in enumerate(list(self._shared.store)):
            entry = self._new_entry(key)
            if entry is not None:
                written = entry.get("start_time")
                age = written if isinstance(written, (int, float)) else 0
                found.append((age, number, key))
        return [key for _, _, key in sorted(found)]

    def _new_entry(self, key: str) -> Entry | None:
        """Return a copy of an entry; None: it is not new, was removed, or is no entry."""
        try:
            entry = self._shared.store[key]
        except KeyError:
            return None
        except Exception as error:  # noqa: BLE001 - the others may be readable
            self._warn_once(key, f"reading it raised {type(error).__name__}: {error}")
            return None
        if not isinstance(entry, dict) or not ({"func", "name"} & set(entry)):
            self._warn_once(key, f"it is not a task but a {type(entry).__name__}")
            return None
        # An entry without a status was written by hand.
        return dict(entry) if entry.get("task_status", NEW) == NEW else None

    def _warn_once(self, key: str, why: str) -> None:
        if key not in self._warned_of:
            self._warned_of.add(key)
            log.warning("entry %r of a store is left alone: %s", key, why)
