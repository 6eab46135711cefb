"""Keep worker processes running: fork them, replace those that die, pass signals on to them.

    supervisor --fork--> child: run_child() --exit status--> supervisor
               --SIGTERM--> drains; a second one: stops at once

The supervisor loads no application and starts no thread, so that a fork of it copies little memory
and no locks. Each child loads the application by itself; a new child loads the files as they are
then. How a child ends when its supervisor ends is in ``forking.py``.
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
from .forking import ChildProcesses, set_title, signal_name

log = logging.getLogger(__name__)

#: Exit status of a child that has drained and is to be replaced: it has reached a limit.
RECYCLED = 0

#: Exit status of a child that is not to be replaced, since nothing is left to do. Python, the shell
#: (from 126) and sysexits.h (64 to 78) do not use it.
NOTHING_LEFT = 100

#: A time that never comes.
NEVER = float("inf")


@dataclass(frozen=True)
class RestartPolicy:
    """When a supervisor replaces children that die, and when it gives up. Times in seconds."""

    settled: float = 5.0  #: a child that has lived so long has started properly
    first_pause: float = 0.1  #: before the second replacement of one that has not; then doubled
    longest_pause: float = 30.0  #: the longest of these pauses
    deaths: int = 10  #: gives up after so many of those in a row, if no child has settled
    #: after its drain, before a child is killed; with 8 s of drain less than Docker's 10
    margin: float = 1.5


DEFAULT_RESTART_POLICY = RestartPolicy()


class Backoff:
    """The pause before a dead child is replaced."""

    def __init__(self, restart_policy: RestartPolicy) -> None:
        self.deaths = 0  #: in a row, of children that had not settled
        self._restart_policy = restart_policy
        self._next_pause = 0.0

    def after(self, lived: float) -> float:
        """Return how long to wait after the death of a child that has *lived* so long; in seconds.

        0 after a child that had settled, and after the first one that had not.
        """
        if lived >= self._restart_policy.settled:
            self.deaths, self._next_pause = 0, 0.0
            return 0.0
        self.deaths += 1
        pause = self._next_pause
        longest = self._restart_policy.longest_pause
        self._next_pause = min(2 * pause or self._restart_policy.first_pause, longest)
        return pause


@dataclass(eq=False)
class _ChildSlot:
    """Capacity for one child at a time; its successor gets the same slot."""

    number: int
    pid: int = 0  #: 0: no child runs
    started_at: float = 0.0
    start_at: float = 0.0  #: when to fork the next; NEVER: not again
    stop_sent: bool = False  #: whether the child was told to end
    kill_at: float = NEVER  #: when it is killed, after it was told to end


class Supervisor:
    """Keeps *processes* children running, each of which calls *run_child*.

    run_child: called in each child's main thread; returns the exit status: RECYCLED, NOTHING_LEFT,
    or another one up to 255 for a failure. SIGTERM ends the process until *run_child* sets a
    handler; it then has to drain, and to stop at once at a second SIGTERM. Its waits need a
    timeout: Python handles a signal that comes just before a wait only after it.
    drain_seconds: how long a child may take to end, without ``restart_policy.margin``.

    Raises ConfigError for fewer than one process, and on a system without fork.
    """

    def __init__(
        self,
        run_child: Callable[[], int],
        *,
        processes: int,
        drain_seconds: float,
        restart_policy: RestartPolicy = DEFAULT_RESTART_POLICY,
    ) -> None:
        if processes < 1:
            raise ConfigError(f"processes: expected 1 or more, got {processes}")
        if not hasattr(os, "fork"):
            raise ConfigError(
                f"expected a system with fork, got {sys.platform}, where no worker process can be "
                "started; run the jobs in the application's own process (asyncjob.threads)"
            )
        self._run_child = run_child
        self._restart_policy = restart_policy
        self._end_seconds = drain_seconds + restart_policy.margin
        self._slots = [_ChildSlot(number) for number in range(1, processes + 1)]
        self._backoff = Backoff(restart_policy)
        self._rolling: list[int] = []  # pids that a rolling restart has yet to end
        self._stopping = False
        self._gave_up = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until all children found nothing left; return the exit
        status.

        0 after a signal, even if a child had to be killed, and if nothing is left; 1 if children
        kept dying. Called once, in the main thread of a process that has no other child and no
        other thread. Every child of the process is reaped here, also those that it inherits as the
        first process of a container.
        """
        processes = len(self._slots)
        set_title(f"supervisor ({processes} process{'es' if processes > 1 else ''})")
        self._children = ChildProcesses(self._end_seconds)
        try:
            while True:
                self._reap()
                self._kill_overdue()
                self._roll()
                self._start_due()
                if all(not slot.pid and slot.start_at == NEVER for slot in self._slots):
                    return 1 if self._gave_up else 0
                for number in self._children.wait(self._seconds()):
                    self._handle_signal(number)
        finally:
            self._children.close()

    def _handle_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            log.info("%s: telling the worker processes to end", signal_name(number))
            self._stop()
        elif number == signal.SIGHUP and not self._stopping:
            log.info("SIGHUP: replacing the worker processes one by one")
            self._rolling = [slot.pid for slot in self._slots if slot.pid]
            for slot in self._slots:
                if slot.start_at != NEVER:
                    slot.start_at = 0.0  # what failed to start may be repaired: try it now

    def _seconds(self) -> float | None:
        """Return how long to sleep if no signal comes, in seconds; None: until one does."""
        moments = [slot.kill_at if slot.pid else slot.start_at for slot in self._slots]
        if self._rolling:
            now = time.monotonic()
            settled = [
                slot.started_at + self._restart_policy.settled for slot in self._slots if slot.pid
            ]
            moments += [moment for moment in settled if moment > now]
        moment = min(moments)
        return None if moment == NEVER else max(0.0, moment - time.monotonic())

    # -- start

    def _start_due(self) -> None:
        for slot in self._slots:
            if not slot.pid and slot.start_at <= time.monotonic():
                self._start(slot)

    def _start(self, slot: _ChildSlot) -> None:
        def run() -> int:
            set_title(f"process {slot.number} of {len(self._slots)}")
            return self._run_child()

        try:
            slot.pid = self._children.fork(run)
        except OSError as error:
            pause = max(self._pause_after(0.0), self._restart_policy.first_pause)
            log.error("cannot fork a worker process: %s; %s", error, self._renew(slot, pause))
            return
        slot.started_at = time.monotonic()
        log.info("worker process %d started (%d of %d)", slot.pid, slot.number, len(self._slots))

    # -- end of a child

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for slot in self._slots:
                if slot.pid == pid:
                    self._ended(slot, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: _ChildSlot, code: int) -> None:
        """Log how the child in *slot* ended, and decide when the next one is forked."""
        pid, lived = slot.pid, time.monotonic() - slot.started_at
        was_told, slot.pid, slot.stop_sent, slot.kill_at = slot.stop_sent, 0, False, NEVER
        expected = code in (RECYCLED, NOTHING_LEFT) or (was_told and code == -signal.SIGTERM)
        pause = 0.0
        if code == NOTHING_LEFT or self._stopping:
            pause = NEVER
        elif not expected and not was_told:
            pause = self._pause_after(lived)
        elif lived >= self._restart_policy.settled:
            self._backoff.after(lived)  # it had started properly: the row of deaths ends
        log.log(
            logging.INFO if expected else logging.WARNING,
            "worker process %d %s after %.1fs; %s",
            pid,
            _how(code),
            lived,
            self._renew(slot, pause),
        )

    def _renew(self, slot: _ChildSlot, pause: float) -> str:
        """Have the next child forked in *pause* seconds; return a text for the log."""
        if self._stopping or pause == NEVER:
            slot.start_at = NEVER
            return "not replaced"
        slot.start_at = time.monotonic() + pause
        return f"replaced in {pause:.2f}s" if pause else "replaced at once"

    def _pause_after(self, lived: float) -> float:
        """Return how long to wait after a failure, in seconds; give up if no child settles."""
        pause = self._backoff.after(lived)
        hopeless = self._backoff.deaths >= self._restart_policy.deaths
        if hopeless and not any(self._is_settled(slot) for slot in self._slots):
            log.error(
                "giving up: %d worker processes in a row ended within %gs of their start; "
                "the lines above this one say how",
                self._backoff.deaths,
                self._restart_policy.settled,
            )
            self._gave_up = True
            self._stop()
        return pause

    def _is_settled(self, slot: _ChildSlot) -> bool:
        return bool(slot.pid) and time.monotonic() >= slot.started_at + self._restart_policy.settled

    # -- end of the supervisor

    def _stop(self) -> None:
        """Tell all children to end; a second call tells them again, and they stop at once."""
        again, self._stopping = self._stopping, True
        for slot in self._slots:
            slot.start_at = NEVER
            # A child that a rolling restart has told is draining already: a second SIGTERM would
            # end its drain, which was not requested yet.
            if slot.pid and (again or not slot.stop_sent):
                self._send_stop(slot)

    def _send_stop(self, slot: _ChildSlot) -> None:
        slot.kill_at = min(slot.kill_at, time.monotonic() + self._end_seconds)
        slot.stop_sent = True
        os.kill(slot.pid, signal.SIGTERM)  # it may be dead, but it has not been reaped

    def _roll(self) -> None:
        """Tell the next child of a rolling restart to end, if all others run and have settled.

        So a version that cannot start ends one process, and not all of them.
        """
        wanted = [slot for slot in self._slots if slot.pid or slot.start_at != NEVER]
        while self._rolling and all(
            self._is_settled(each) and not each.stop_sent for each in wanted
        ):
            pid = self._rolling.pop(0)
            for slot in wanted:
                if slot.pid == pid:
                    self._send_stop(slot)

    def _kill_overdue(self) -> None:
        for slot in self._slots:
            if slot.pid and time.monotonic() >= slot.kill_at:
                log.warning(
                    "worker process %d has not ended %.1fs after it was told to: killing it",
                    slot.pid,
                    self._end_seconds,
                )
                slot.kill_at = NEVER
                os.kill(slot.pid, signal.SIGKILL)


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {signal_name(-code)}"
    words = {RECYCLED: "ended", NOTHING_LEFT: "ended with nothing left to do"}
    return words.get(code, f"failed with exit code {code}")
