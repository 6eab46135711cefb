"""A crew of worker processes: messages go to them, results and news of deaths come back.

    put() --> Slot --frames--> worker process      any thread, under the crew's lock
    listener <-- one thread of the crew <--frames-- worker process

What the listener is told, it is told by the crew's thread and without the lock. A worker that
dies is replaced; what becomes of the messages that it had is for the crew's terms to say.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import threading
import weakref
from typing import Any

from ...errors import WorkerCrashed
from ..remote_errors import Failure
from .monitor import Lookout
from .processes import end_process, start_process
from .results import BOUNDLESS, ResultBound
from .settings import Listener, Terms, unpack
from .worker_handle import Slot

log = logging.getLogger(__name__)

#: How long a crew that nobody stopped is given at the interpreter's exit, in seconds.
EXIT_SECONDS = 8.0

#: Workers that may die in a row before they are ready; then the crew gives up.
MOST_FALSE_STARTS = 3


class Crew:
    """See the module. Any thread may call any method."""

    def __init__(self, terms: Terms, listener: Listener) -> None:
        self._terms = terms
        self._listener = listener
        self._context: Any = multiprocessing.get_context(terms.start_method)
        self._lock = threading.RLock()
        tasks = BOUNDLESS if terms.max_tasks is None else max(1, terms.max_tasks // terms.size)
        self._slots = [Slot(number, tasks) for number in range(terms.size)]
        self._bound = ResultBound(self._context, terms.size, terms.max_results)
        self._turn = 0
        self._false_starts = 0
        self._failure: BaseException | None = None  #: why the last worker could not start
        self._refusal: str | None = None  #: why no message is taken any more
        self._is_given_up = False
        self._thread: threading.Thread | None = None
        self._lookout: Lookout | None = None
        _crews.add(self)

    @property
    def pids(self) -> list[int]:
        """The processes, by the numbers of their workers."""
        return [slot.pid for slot in self._slots]

    @property
    def undone_results(self) -> int:
        """Results of all workers that nobody has said are dealt with."""
        with self._lock:
            return sum(slot.undone_results for slot in self._slots)

    def start(self) -> None:
        """Start processes and thread. Raises RuntimeError at a second call."""
        with self._lock:
            if self._thread is not None or self._refusal is not None:
                raise RuntimeError("expected a pool that was not started; make another one")
            self._lookout = Lookout()
            self._thread = threading.Thread(target=self._serve, name="asyncjob-crew", daemon=True)
            try:
                for slot in self._slots:
                    self._staff(slot)
            except BaseException:
                self._give_up("the pool could not be started")
                self._thread.start()
                raise
        atexit.register(self._end_with_interpreter)
        self._thread.start()

    # -- messages

    def put(self, payload: bytes, *, number: int | None = None, label: object = None) -> None:
        """Take a packed message for worker *number*; None: for the next in turn.

        label: comes back with a message that is lost.
        Raises queue.Full, IndexError for a number that no worker has, WorkerCrashed after the
        crew has given up, RuntimeError after ``stop``.
        """
        with self._lock:
            if self._refusal is not None:
                raise (WorkerCrashed if self._is_given_up else RuntimeError)(self._refusal)
            slot = self._slots[self._turn] if number is None else self._slot(number)
            slot.accept(payload, label)
            if number is None:
                self._turn = (self._turn + 1) % len(self._slots)
            if not slot.begin():
                self._look_again()

    def next_in_turn(self) -> int:
        """Return the number that a message is for, and go on to the next."""
        with self._lock:
            turn = self._turn
            self._turn = (turn + 1) % len(self._slots)
            return turn

    def idlest(self) -> int | None:
        """Return the worker with the fewest messages; None where all are full.

        For a crew with one sender: only what is put in between makes the answer wrong.
        """
        slot = min(self._slots, key=len)
        if len(slot) < slot.most_tasks:  # none that would wait
            return slot.number
        with self._lock:
            for full in self._slots:
                full.is_awaited = True
            slot = min(self._slots, key=len)  # what was done before that told nobody
            return slot.number if len(slot) < slot.most_tasks else None

    def results_done(self, number: int, results: int) -> None:
        """Count results of a worker as dealt with, and let workers send as many more."""
        with self._lock:
            self._slots[number].undone_results -= results
            self._bound.done(number, results)
            self._call_waiting()

    def _call_waiting(self) -> None:
        """Tell workers that wait with a result that there is room; under the lock."""
        for number in self._bound.answered():
            self._slots[number].call()
            self._push(self._slots[number])

    def _slot(self, number: int) -> Slot:
        if not 0 <= number < len(self._slots):
            raise IndexError(f"expected a worker of 0 to {len(self._slots) - 1}, got {number!r}")
        return self._slots[number]

    def _push(self, slot: Slot) -> None:
        if not slot.push():
            self._look_again()  # for a moment when the stream takes more

    def _look_again(self) -> None:
        if self._lookout is not None:
            self._lookout.look_again()

    # -- the end

    def stop(self, reason: str = "the pool was stopped") -> None:
        """Take no more messages, and have each worker end when it has done what it has."""
        with self._lock:
            self._refusal = self._refusal or reason
            self._bound.lift()  # the worker's last messages may have results that nobody deals with
            self._call_waiting()
            for slot in self._slots:
                slot.close()
                self._push(slot)
        if self._thread is None:
            self._lose_the_rest()

    def kill(self, reason: str) -> None:
        """Kill the workers; what they have not done is lost."""
        with self._lock:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        self._is_given_up = True
        self._refusal = reason
        for slot in self._slots:
            if slot.process is not None and not slot.is_gone:
                slot.process.kill()
            elif slot.process is None:
                slot.is_gone = True
        self._look_again()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the last process has ended and the listener has heard everything.

        timeout: seconds; None: as long as it takes. Returns whether it has. False at once
        where the listener itself asks, in the crew's thread.
        """
        thread = self._thread
        if thread is None:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    def _end_with_interpreter(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            return
        self.stop("the interpreter exits")
        if not self.join(EXIT_SECONDS):
            log.warning("workers %s are killed at the interpreter's exit", self.pids)
            self.kill("the interpreter exits")
            self.join()

    def after_fork(self) -> None:
        """Let go of what belongs to the parent, in a child that somebody has forked."""
        self._lock = threading.RLock()
        self._refusal = "the pool belongs to the process that this one was forked from"
        self._thread = None
        for slot in self._slots:
            if slot.channel is not None:
                slot.channel.close()
                slot.channel = None
        if self._lookout is not None:
            self._lookout.close()
            self._lookout = None

    # -- the crew's thread

    def _staff(self, slot: Slot) -> None:
        """Start a process for *slot*; under the lock."""
        start_process(self._context, slot, self._bound, self._terms.factory)
        assert self._lookout is not None
        self._lookout.watch(slot)
        self._push(slot)

    def _serve(self) -> None:
        assert self._lookout is not None
        while not all(slot.is_gone for slot in self._slots):
            ready, quiet = self._lookout.look()
            for slot in ready:
                self._listen(slot)
            for slot in quiet:
                self._look_after(slot)
        self._lose_the_rest()
        self._lookout.close()
        atexit.unregister(self._end_with_interpreter)

    def _listen(self, slot: Slot) -> None:
        """Read what a worker has sent, send what it can take, and see whether it lives."""
        assert slot.channel is not None
        frames = slot.channel.receive()
        if frames is None:
            self._bury(slot)
            return
        if slot.channel.is_clogged:
            with self._lock:
                slot.resume()
        for receipts, done, results, refused in frames:
            with self._lock:
                slot.undone_results += len(results)
                slot.note(receipts, done)
                has_room = slot.greets()
                if not slot.has_started and not refused:
                    slot.has_started = True
                    self._false_starts = 0
            if results:
                self._deliver(slot, results)
            for number, failure in refused:
                self._refuse(slot, number, failure)
            if has_room:
                self._listener.make_room(slot.number)

    def _look_after(self, slot: Slot) -> None:
        """See whether a worker died although its end of the channel is open.

        A process that it has forked itself may hold it.
        """
        if slot.process is not None and not slot.process.is_alive():
            self._listen(slot)
            if slot.process is not None:
                self._bury(slot)

    def _deliver(self, slot: Slot, payloads: list[bytes]) -> None:
        results = []
        for payload in payloads:
            try:
                results.append(unpack(payload))
            except Exception:
                log.exception("worker %s: a result cannot be unpickled here", slot.number)
                self.results_done(slot.number, 1)
        if results:
            self._listener.deliver(slot.number, results)

    def _refuse(self, slot: Slot, number: int, failure: tuple[Any, ...]) -> None:
        error = Failure(*failure).exception()
        if number < 0:
            self._failure = error
            return
        with self._lock:
            parcel = slot.refuse(number)
        if parcel is not None:
            self._listener.lose([parcel], error)

    def _bury(self, slot: Slot) -> None:
        """Deal with a worker whose end of the channel is closed, and replace it."""
        assert self._lookout is not None
        assert slot.process is not None
        assert slot.channel is not None
        self._lookout.forget(slot)
        status = end_process(slot.process)
        with self._lock:
            slot.channel.close()
            slot.channel = slot.process = None
            self._bound.settle(slot.number, slot.undone_results)
            self._call_waiting()
            if slot.has_ended_well:
                slot.is_gone = True
                return
            lost = slot.inherit(self._terms.redeliver)
            self._false_starts += not slot.has_started
            if self._false_starts >= MOST_FALSE_STARTS:
                self._give_up(f"{self._false_starts} workers in a row died before they were ready")
            waiting = len(slot)
            slot.is_gone = self._is_given_up or (self._refusal is not None and not waiting)
        obituary = f"worker {slot.number} (pid {slot.pid}) died, {status}"
        log.error("%s; %s messages lost, %s wait for another", obituary, len(lost), waiting)
        if lost:
            self._listener.lose(lost, WorkerCrashed(obituary))
        if slot.is_gone:
            return
        try:
            with self._lock:
                self._staff(slot)
        except Exception as error:
            log.exception("worker %s cannot be replaced", slot.number)
            self._failure = error
            self.kill(f"worker {slot.number} cannot be replaced: {error}")
        self._listener.make_room(slot.number)

    def _lose_the_rest(self) -> None:
        with self._lock:
            left = [parcel for slot in self._slots for parcel in slot.clear()]
            error = WorkerCrashed(self._refusal or "the pool was stopped")
        error.__cause__ = self._failure
        if self._is_given_up:
            log.error("%s; %s messages lost", error, len(left), exc_info=self._failure)
        if left:
            self._listener.lose(left, error)
        for slot in self._slots:
            self._listener.make_room(slot.number)


_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


def _forked() -> None:
    for crew in list(_crews):
        crew.after_fork()


os.register_at_fork(after_in_child=_forked)
