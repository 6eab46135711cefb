"""An executor whose calls wait in a store until a reader, here or elsewhere, runs them.

A thread polls for the ends of submitted calls, as long as there are any::

    submit --entry--> store <--take-- reader (here, another process)
    future <--thread-- store <--result or error-- reader
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..call import path_of
from ..errors import NoReader, Unreadable
from .bounds import check_bound
from .store_entries import COMPLETE, ERROR, NEW, Entries, Entry
from .store_reader import PAUSE_AFTER_ERROR_SECONDS, SharedStore, Store, StoreReader, shared_store

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(eq=False)
class _Pending:
    future: Future[Any]
    name: str
    written_at: float = field(default_factory=time.monotonic)


class EntryMonitor:
    """Returns futures of entries, and settles them when their entries end.

    removes: whether an entry is removed from the store once its future is done.
    claim_timeout: seconds after which an entry that no reader took ends with NoReader; None: never.
    poll_seconds: between two checks of the store.
    """

    def __init__(
        self,
        store: SharedStore,
        entries: Entries,
        *,
        poll_seconds: float = 0.05,
        claim_timeout: float | None = None,
        removes: bool = False,
    ) -> None:
        check_bound("poll_seconds", poll_seconds)
        if claim_timeout is not None:
            check_bound("claim_timeout", claim_timeout)
        self._shared = store
        self._entries = entries
        self._poll_seconds = poll_seconds
        self._claim_timeout = claim_timeout
        self._removes = removes
        self.on_busy: Callable[[], object] = bool  #: called when something becomes pending
        self.on_idle: Callable[[], object] = bool  #: called when nothing is pending any more
        self._lock = threading.RLock()
        self._pending: dict[str, _Pending] = {}
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, key: str, entry: Entry) -> Future[Any]:
        """Write an entry; return the future of its end. Raises what the store raises."""
        with self._shared.lock:
            self._shared.store[key] = entry
        return self.follow(key, str(entry["name"]))

    def follow(self, key: str, name: str) -> Future[Any]:
        """Return the future of an entry that was written. name: the name of its function."""
        pending = _Pending(Future(), name)
        with self._lock:
            self._pending[key] = pending
            if self._thread is None:
                # A daemon: the exit of the program must not wait for a reader that may never
                # start. A thread that waits for a future delays it anyway.
                self._thread = threading.Thread(
                    target=self._loop, name="asyncjob-store-monitor", daemon=True
                )
                self._thread.start()
            self.on_busy()
        return pending.future

    def wake(self) -> None:
        """Check at once, without waiting for the end of the pause."""
        self._woken.set()

    def cancel(self) -> None:
        """Cancel every future whose entry no reader has taken."""
        with self._lock:
            waiting = list(self._pending.items())
        for key, pending in waiting:
            with self._shared.lock:
                entry = self._shared.get(key)
                if entry is not None and entry.get("task_status") == NEW:
                    pending.future.cancel()
        self._woken.set()

    def join(self) -> None:
        """Return when nothing is pending."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _loop(self) -> None:
        while True:
            self._woken.clear()
            with self._lock:
                waiting = list(self._pending.items())
                if not waiting:
                    self._thread = None
                    self.on_idle()
                    return
            for key, pending in waiting:
                try:
                    ended = self._check(key, pending)
                except Exception:  # a store may raise anything, and work again later
                    log.exception("task %s: its store cannot be used", key)
                    self._woken.wait(PAUSE_AFTER_ERROR_SECONDS)
                    break
                if ended:
                    with self._lock:
                        self._pending.pop(key, None)
            self._woken.wait(self._poll_seconds)

    def _check(self, key: str, pending: _Pending) -> bool:
        """Update a future from its entry; return whether the wait for it is over."""
        future = pending.future
        with self._shared.lock:
            entry = self._shared.get(key)
            status = None if entry is None else entry.get("task_status")
            waited = time.monotonic() - pending.written_at
            unread = status == NEW and self._claim_timeout is not None
            unread = unread and waited > (self._claim_timeout or 0)
            has_ended = status in (COMPLETE, ERROR)
            given_up = status == NEW and (unread or future.cancelled())
            if entry is not None and (given_up or (has_ended and self._removes)):
                del self._shared.store[key]
        if future.cancelled():
            return status is None or has_ended or given_up
        if status == NEW and not unread:
            return False
        if not future.running() and not future.set_running_or_notify_cancel():
            return has_ended
        if unread:
            why = f"none did within {self._claim_timeout:g} s"
            future.set_exception(NoReader(pending.name, why))
        elif entry is None:
            future.set_exception(
                Unreadable(f"expected task {key!r} in its store, but it was removed")
            )
        elif has_ended:
            self._complete(key, entry, future)
        return future.done()

    def _complete(self, key: str, entry: Entry, future: Future[Any]) -> None:
        try:
            value = self._entries.outcome(key, entry)
        except BaseException as error:  # noqa: BLE001 - it is raised by the future
            future.set_exception(error)
        else:
            future.set_result(value)


class StoreExecutor(Executor):
    """Runs each call where a reader takes it from *store*.

    readers: threads of this process that read it while calls are pending; 0: other processes read
    it. secret: signs the entries; without one the store holds pickles, and **every process that can
    write to it can run code here and in every reader**: only its owner may be able to write to it.
    claim_timeout: seconds after which a call that no reader took ends with NoReader; None: never.
    poll_seconds: between two checks of the store.

    A call runs at least once, outside any transaction of the caller. Entries that have ended are
    removed. Raises ConfigError for a store that is no mapping, and bounds that are not above 0.
    """

    def __init__(
        self,
        store: Store,
        *,
        readers: int = 1,
        secret: str | None = None,
        claim_timeout: float | None = None,
        poll_seconds: float = 0.05,
    ) -> None:
        self._shared = shared_store(store)
        self._entries = Entries(secret)
        self._lock = threading.RLock()
        self._shut_down = False
        self._monitor = EntryMonitor(
            self._shared,
            self._entries,
            poll_seconds=poll_seconds,
            claim_timeout=claim_timeout,
            removes=True,
        )
        self._reader: StoreReader | None = None
        if readers:
            reader = StoreReader(store, self._entries, poll_seconds=poll_seconds, threads=readers)
            reader.on_ended = self._monitor.wake
            self._monitor.on_busy = reader.listen
            self._monitor.on_idle = lambda: reader.stop(timeout=0)
            self._reader = reader

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Write the call into the store; return its future.

        Raises RuntimeError after ``shutdown``, NotSerializable for a call that cannot be written,
        and NoReader for a ``dict`` without a reader in this process, since no other process sees
        it.
        """
        key = f"asyncjob-{uuid.uuid4().hex}"
        with self._lock:
            if self._shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._shared.has_no_reader():
                raise NoReader(path_of(fn), "it is a dict, and nothing in this process reads it")
            entry = self._entries.write(key, path_of(fn), fn, ((), args, {}, kwargs))
            future = self._monitor.write(key, entry)
            if self._reader is not None:
                self._reader.wake()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls. wait: until the submitted ones have ended.

        cancel_futures: cancel those that no reader has taken.
        """
        with self._lock:
            self._shut_down = True
        if cancel_futures:
            self._monitor.cancel()
        if wait:
            self._monitor.join()
            if self._reader is not None:
                self._reader.stop()
