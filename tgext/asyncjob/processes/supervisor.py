"""Keep worker processes running: fork them, replace those that die, hand on what stops them.

    supervisor --fork--> child: run_child() --exit status--> supervisor
               --SIGTERM--> drains; a second one: stops at once

The supervisor is the process that loads nothing and starts no thread, so that what it forks is
small and whole: each child loads the application by itself, and a new child loads what lies on
disk by then. How a child is tied to it, and ends with it, is in ``forking.py``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError
from .forking import Ties, name_of, set_title

log = logging.getLogger(__name__)

#: Exit status of a child that drained and asks for a successor: it has run its share of jobs.
RECYCLED = 0

#: Exit status of a child that wants no successor, since there is nothing more to do. None of
#: Python's, the shell's (from 126) or sysexits.h's (64 to 78).
NOTHING_LEFT = 100

#: A moment that does not come.
NEVER = float("inf")


@dataclass(frozen=True)
class Patience:
    """How long a supervisor bears with its children, in seconds."""

    settled: float = 5.0  #: a child that has lived so long was not wrong from its start
    first_pause: float = 0.1  #: before the second replacement of one that was; then doubled
    longest_pause: float = 30.0  #: up to this
    deaths: int = 10  #: so many of those in a row, and no settled child: gives up
    margin: float = 1.5  #: a child is killed so long after its drain; with 8 s below Docker's 10


DEFAULT_PATIENCE = Patience()


class Backoff:
    """How long to wait with the replacement of a dead child."""

    def __init__(self, patience: Patience) -> None:
        self.deaths = 0  #: in a row, of children that had not settled
        self._patience = patience
        self._next_pause = 0.0

    def after(self, lived: float) -> float:
        """Return the seconds to wait after the death of a child that *lived* so many.

        None after one that had settled, nor after the first that had not.
        """
        if lived >= self._patience.settled:
            self.deaths, self._next_pause = 0, 0.0
            return 0.0
        self.deaths += 1
        pause = self._next_pause
        longest = self._patience.longest_pause
        self._next_pause = min(2 * pause or self._patience.first_pause, longest)
        return pause


@dataclass(eq=False)
class _Place:
    """The place of one child, which successors take."""

    number: int
    pid: int = 0  #: 0: no child lives here
    born: float = 0.0
    start_at: float = 0.0  #: when to fork the next; NEVER: not again
    told: bool = False  #: whether the child was told to end
    kill_at: float = NEVER  #: when it is killed, having been told


class Supervisor:
    """Keeps *processes* children running, each of which calls *run_child*.

    run_child: called in each child's main thread; returns the exit status, RECYCLED,
    NOTHING_LEFT, or anything else up to 255 for a failure. SIGTERM ends the process until
    *run_child* takes it: it then has to drain, and to stop at once at a second one. Its waits
    need a bound: Python handles a signal that comes just before a wait only after it.
    drain_seconds: what a child that was told to end may take, not counting ``patience.margin``.

    Raises ConfigError for fewer than one process, and on a system that cannot fork.
    """

    def __init__(
        self,
        run_child: Callable[[], int],
        *,
        processes: int,
        drain_seconds: float,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        if processes < 1:
            raise ConfigError(f"processes: expected 1 or more, got {processes}")
        if not hasattr(os, "fork"):
            raise ConfigError(
                f"expected a system with fork, got {sys.platform}, which starts no worker "
                "processes; let the application's own process work (asyncjob.threads)"
            )
        self._run_child = run_child
        self._patience = patience
        self._end_seconds = drain_seconds + patience.margin
        self._places = [_Place(number) for number in range(1, processes + 1)]
        self._backoff = Backoff(patience)
        self._rolling: list[int] = []  # pids yet to be told by a rolling restart
        self._stopping = False
        self._gave_up = False

    def run(self) -> int:
        """Run until told to end, or all children found nothing left; return the exit code.

        0 after a SIGTERM or SIGINT, even if a child had to be killed, and where nothing is left;
        1 where children kept dying. Called once, in the main thread of a process that has no
        other child and no other thread. Every child of the process is reaped here, those too
        that it inherits as the first process of a container.
        """
        processes = len(self._places)
        set_title(f"supervisor ({processes} process{'es' if processes > 1 else ''})")
        self._ties = Ties(self._end_seconds)
        try:
            while True:
                self._reap()
                self._kill_overdue()
                self._roll()
                self._start_due()
                if all(not place.pid and place.start_at == NEVER for place in self._places):
                    return 1 if self._gave_up else 0
                for number in self._ties.wait(self._seconds()):
                    self._hear(number)
        finally:
            self._ties.close()

    def _hear(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            log.info("%s: telling the worker processes to end", name_of(number))
            self._stop()
        elif number == signal.SIGHUP and not self._stopping:
            log.info("SIGHUP: replacing the worker processes one by one")
            self._rolling = [place.pid for place in self._places if place.pid]
            for place in self._places:
                if place.start_at != NEVER:
                    place.start_at = 0.0  # what could not start may be mended: try it now

    def _seconds(self) -> float | None:
        """Return how long to sleep if no signal comes; None: until one does."""
        moments = [place.kill_at if place.pid else place.start_at for place in self._places]
        if self._rolling:
            now = time.monotonic()
            settled = [place.born + self._patience.settled for place in self._places if place.pid]
            moments += [moment for moment in settled if moment > now]
        moment = min(moments)
        return None if moment == NEVER else max(0.0, moment - time.monotonic())

    # -- birth

    def _start_due(self) -> None:
        for place in self._places:
            if not place.pid and place.start_at <= time.monotonic():
                self._start(place)

    def _start(self, place: _Place) -> None:
        def live() -> int:
            set_title(f"process {place.number} of {len(self._places)}")
            return self._run_child()

        try:
            place.pid = self._ties.fork(live)
        except OSError as error:
            pause = max(self._pause_after(0.0), self._patience.first_pause)
            log.error("cannot fork a worker process: %s; %s", error, self._renew(place, pause))
            return
        place.born = time.monotonic()
        log.info("worker process %d started (%d of %d)", place.pid, place.number, len(self._places))

    # -- death

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for place in self._places:
                if place.pid == pid:
                    self._ended(place, os.waitstatus_to_exitcode(status))

    def _ended(self, place: _Place, code: int) -> None:
        """Say how the child in *place* ended, and decide when the next is forked."""
        pid, lived = place.pid, time.monotonic() - place.born
        was_told, place.pid, place.told, place.kill_at = place.told, 0, False, NEVER
        expected = code in (RECYCLED, NOTHING_LEFT) or (was_told and code == -signal.SIGTERM)
        pause = 0.0
        if code == NOTHING_LEFT or self._stopping:
            pause = NEVER
        elif not expected and not was_told:
            pause = self._pause_after(lived)
        elif lived >= self._patience.settled:
            self._backoff.after(lived)  # nothing was wrong with it: the row of deaths ends
        log.log(
            logging.INFO if expected else logging.WARNING,
            "worker process %d %s after %.1fs; %s",
            pid,
            _how(code),
            lived,
            self._renew(place, pause),
        )

    def _renew(self, place: _Place, pause: float) -> str:
        """Have the next child forked in *pause* seconds; return that in words."""
        if self._stopping or pause == NEVER:
            place.start_at = NEVER
            return "not replaced"
        place.start_at = time.monotonic() + pause
        return f"replaced in {pause:.2f}s" if pause else "replaced at once"

    def _pause_after(self, lived: float) -> float:
        """Return how long to wait after a failure; gives up where no child ever settles."""
        pause = self._backoff.after(lived)
        hopeless = self._backoff.deaths >= self._patience.deaths
        if hopeless and not any(self._is_settled(place) for place in self._places):
            log.error(
                "giving up: %d worker processes in a row ended within %gs of their start; "
                "the lines above this one say how",
                self._backoff.deaths,
                self._patience.settled,
            )
            self._gave_up = True
            self._stop()
        return pause

    def _is_settled(self, place: _Place) -> bool:
        return bool(place.pid) and time.monotonic() >= place.born + self._patience.settled

    # -- the end

    def _stop(self) -> None:
        """Tell all children to end, and once more those that were told before."""
        again, self._stopping = self._stopping, True
        for place in self._places:
            place.start_at = NEVER
            # One that a rolling restart has told is draining already: a second signal of ours
            # would cut that short, and nobody has asked for it yet.
            if place.pid and (again or not place.told):
                self._tell(place)

    def _tell(self, place: _Place) -> None:
        place.kill_at = min(place.kill_at, time.monotonic() + self._end_seconds)
        place.told = True
        os.kill(place.pid, signal.SIGTERM)  # it may be dead, but it has not been reaped

    def _roll(self) -> None:
        """Tell the next child to end, if all others are back and have settled.

        So a version that cannot start takes one process down, and not all of them.
        """
        wanted = [place for place in self._places if place.pid or place.start_at != NEVER]
        while self._rolling and all(self._is_settled(each) and not each.told for each in wanted):
            pid = self._rolling.pop(0)
            for place in wanted:
                if place.pid == pid:
                    self._tell(place)

    def _kill_overdue(self) -> None:
        for place in self._places:
            if place.pid and time.monotonic() >= place.kill_at:
                log.warning(
                    "worker process %d has not ended %.1fs after it was told to: killing it",
                    place.pid,
                    self._end_seconds,
                )
                place.kill_at = NEVER
                os.kill(place.pid, signal.SIGKILL)


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {name_of(-code)}"
    words = {RECYCLED: "ended", NOTHING_LEFT: "ended with nothing left to do"}
    return words.get(code, f"failed with exit code {code}")
