"""Has jobs with keys admitted, after the commit, by a thread of this process.

    commit --> request --> thread: admit --> announce
                      '--> claim of a worker of this process: settle

So no request waits for the lock of a key, and a claim finds what its own process has enqueued
before. When a rate allows the next start, the thread admits it, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from ...policies import Keys
from ...sharing import Share, is_turn
from ...uniqueness import is_unique_key
from .admission import Admission
from .notifier import ANY
from .rows import ClaimedRow
from .unique_admission import KEYS_AT_ONCE, Admitted, UniqueAdmission

log = logging.getLogger(__name__)

#: Groups that one round of the maintenance looks at.
LOOKED_AT_ONCE = 50

#: Rounds of admissions after which all is done that was requested before the first of them: one may
#: have begun already, in one a job takes its unique key, and in the next a slot.
ROUNDS = 3

#: How often who waits for the rounds of others looks whether there were enough, in seconds.
LOOK_SECONDS = 0.01

#: The longest that ``close`` waits for what is still to be admitted, in seconds.
CLOSE_SECONDS = 2.0


class Wanted(NamedTuple):
    """What is asked for of a group, or of a turn."""

    names: tuple[str, ...] = ()  #: keys that may have a free slot
    share: Share | None = None  #: the turn of a group that waits for nothing else


class Admissions:
    """Those of one process.

    announce: called with the names of queues and the number of jobs. is_passing: whether an error
    says that the database could not be reached or is busy.
    """

    def __init__(
        self,
        admission: Admission,
        unique_admission: UniqueAdmission,
        announce: Callable[[Iterable[str], int], None],
        is_passing: Callable[[BaseException], bool],
    ) -> None:
        self._admission = admission
        self._unique_admission = unique_admission
        self._announce = announce
        self._is_passing = is_passing
        self._begin()

    def _begin(self) -> None:
        self._wanted: dict[str, Wanted] = {}  # by group, or turn
        self._due: dict[str, float] = {}  # groups, and when a rate may allow more, by monotonic()
        self._is_busy = False
        self._rounds = 0  # that have ended
        self._lock = threading.RLock()
        self._looked_at = ""  # the group at which the last round has ended
        #: what wakes the thread; False: the end. A finalizer may put it while its thread does.
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def request(self, keys: Iterable[Keys | None]) -> None:
        """Have jobs admitted that wait for the same as one that was blocked, or has ended."""
        found: dict[str, Wanted] = {}
        for each in keys:
            if each is not None and each.group is not None:
                names = tuple(each.names)
                found[each.group] = Wanted(names, None if names else each.share)
            if each is not None and each.unique is not None:
                found[each.unique.key] = Wanted()
        self._ask(found)

    def claimed(self, rows: Sequence[ClaimedRow]) -> Sequence[ClaimedRow]:
        """Have the next jobs admitted of the turns of claimed ones, and return these."""
        all_keys = [Keys.of(row.policy) for row in rows if row.policy is not None]
        turns = {keys.share.turn for keys in all_keys if keys and keys.share}
        self._ask(dict.fromkeys(turns, Wanted()))
        return rows

    def _ask(self, found: Mapping[str, Wanted]) -> None:
        if found:
            self._wanted.update(found)
            self._wake()

    def settle(self, *, any_time: bool = False) -> None:
        """Admit what was requested before, and what follows from that; returns when that is done,
        by whichever threads, also if others go on with requests. any_time: look, too, what a rate
        allows: a clock that is handed in may have moved."""
        if any_time:
            self._want(list(self._due))
        until = self._rounds + ROUNDS
        while self._rounds < until and (self._wanted or self._is_busy):
            # Not longer: a thread that goes on with rounds takes the lock again at once.
            if self._lock.acquire(timeout=LOOK_SECONDS):
                try:
                    self._is_busy = True
                    self._admit_wanted()
                finally:
                    self._rounds += 1
                    self._is_busy = False
                    self._lock.release()

    def _admit_wanted(self) -> None:
        # One by one, as it was asked for last: others ask meanwhile.
        wanted = {group: self._wanted.pop(group) for group in list(self._wanted)}
        # Those with most keys first: they note for what they wait.
        ordered = sorted(wanted, key=lambda each: -len(wanted[each].names))
        self._admit_all({group: wanted[group] for group in ordered})

    def _admit_all(self, wanted: Mapping[str, Wanted]) -> None:
        """Admit what is wanted in this order, but many unique keys, and each turn, at once."""
        unique = [group for group in wanted if is_unique_key(group)]
        if len(unique) > 1:
            wanted = {group: each for group, each in wanted.items() if not is_unique_key(group)}
            self._admit_together(unique)
        turns: dict[str, list[tuple[str, str]]] = {}
        for group, (names, share) in wanted.items():
            if share is not None:
                turns.setdefault(share.turn, []).append((share.owner, group))
            elif is_turn(group):
                turns.setdefault(group, [])
            else:
                self._admit(group, names)
        for turn, waiting in turns.items():
            self._admit(turn, waiting=waiting)

    def _admit(
        self,
        group: str,
        names: tuple[str, ...] = (),
        waiting: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._due.pop(group, None)
        try:
            if is_unique_key(group):
                admitted, seconds = self._admitted(self._unique_admission.admit(group)), None
            else:
                admitted, seconds = self._admission.admit(group, names, waiting)
        except Exception as error:
            if self._is_passing(error):
                log.info("could not admit jobs of key %s, trying again soon: %s", group, error)
            else:
                log.exception("could not admit jobs of key %s, trying again soon", group)
            return
        if admitted:
            self._announce(admitted.keys(), admitted.total())
        if seconds is not None:
            self._due[group] = time.monotonic() + seconds
            self._wake()

    def _admit_together(self, keys: Sequence[str]) -> None:
        """Decide on those that ask for unique keys."""
        for begin in range(0, len(keys), KEYS_AT_ONCE):
            left: Sequence[str] = keys[begin : begin + KEYS_AT_ONCE]
            with suppress(Exception):  # it is that of one key, and raised again for that one
                decided, left = self._unique_admission.admit_together(left)
                admitted = self._admitted(decided)
                if admitted:
                    self._announce(admitted.keys(), admitted.total())
            for key in left:
                self._admit(key)

    def _admitted(self, decided: Sequence[Admitted]) -> Counter[str]:
        """Count those that wait now; those with a limit are admitted after that."""
        found: Counter[str] = Counter()
        for each in decided:
            if each.keys is None:
                found[ANY if each.is_delayed else each.queue_name] += 1
            else:
                self.request([each.keys._replace(unique=None)])
        return found

    def look(self) -> None:
        """Admit what nobody has admitted, in some of the groups; a round of the maintenance."""
        found = self._admission.blocked(self._looked_at, LOOKED_AT_ONCE)
        self._looked_at = found[-1] if len(found) == LOOKED_AT_ONCE else ""
        shares = self._admission.shares(found)
        self._admit_all({group: Wanted(share=shares.get(group)) for group in found})

    # -- the thread

    def _wake(self) -> None:
        self._calls.put(True)
        if self._thread is None and not self._is_closed:
            with self._lock, suppress(RuntimeError):  # no thread starts once the interpreter exits
                if self._thread is None:
                    thread = threading.Thread(
                        target=self._run, name="asyncjob-admission", daemon=True
                    )
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            due = min(self._due.copy().values(), default=None)
            with suppress(Empty):
                goes_on = self._calls.get(
                    timeout=None if due is None else max(0.0, due - time.monotonic())
                )
            now = time.monotonic()
            self._want([group for group, at in self._due.copy().items() if at <= now])
            self.settle()

    def _want(self, due: list[str]) -> None:
        for group in due:
            self._due.pop(group, None)
            self._wanted.setdefault(group, Wanted())

    def close(self) -> None:
        """Admit what is left, and end the thread."""
        self._is_closed = True
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._calls.put(False)
            thread.join(CLOSE_SECONDS)

    def after_fork(self) -> None:
        """Begin anew in a child process: the thread is the parent's."""
        self._begin()
