"""The processes of one run: started, struck by their pid, and replaced when they end."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from forked_python import OF_COMMANDS, ForkedPython

from .journal import DONE, PASSED, READY, STRUCK, Line, read
from .place import Place
from .schedule import ENQUEUER, WORKER

#: What the processes run, and what that imports in the end.
IMPORTS = f"crash.{WORKER} crash.{ENQUEUER} {OF_COMMANDS}"

#: Seconds that a worker which is told to stop may take, its drain included.
STOP_SECONDS = 20.0


@dataclass
class Child:
    """A process, and what is being done to it."""

    name: str
    role: str
    process: subprocess.Popen[bytes]
    journal: Path
    is_ready: bool = False
    struck: signal.Signals | None = None  #: a blow is on its way, or has hit
    struck_at: float = 0.0  #: by time.monotonic()
    point: str = ""  #: where it is to strike itself
    #: when it was stopped, and went on, by time.monotonic(); for good where it has ended
    absences: list[tuple[float, float]] = field(default_factory=list)

    def look(self) -> bool:
        """Return whether it has come up."""
        self.is_ready = self.is_ready or any(line.word == READY for line in read(self.journal))
        return self.is_ready

    def is_stopped(self) -> bool:
        """Return whether a SIGSTOP holds it; asks the kernel and takes no exit status away."""
        pid, how = self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, pid, how) is not None
        except ChildProcessError:
            return False

    def send(self, which: signal.Signals, point: str = "") -> None:
        """Strike it: now, or by its own hand when it comes to *point*."""
        self.struck, self.struck_at, self.point = which, time.monotonic(), point
        if not point:
            self.process.send_signal(which)
            return
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{which.name} {point}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has just ended

    def own_strike(self) -> Line | None:
        """Return when it struck itself and in which job; None where it was not told to, or has
        not come there."""
        found = [line for line in read(self.journal) if line.word == STRUCK]
        return found[-1] if found and self.point else None

    def has_passed(self) -> bool:
        """Whether the attempt in which it last struck itself has ended."""
        words = [line.word for line in read(self.journal) if line.word in (STRUCK, PASSED)]
        return words[-1:] != [STRUCK]


class Processes:
    """size: how many workers there are always to be."""

    def __init__(self, place: Place, size: int) -> None:
        self._place = place
        self._size = size
        self._made = 0
        self.children: list[Child] = []
        #: those that have ended, too
        self.all: list[Child] = []
        self.is_enqueued = place.jobs == 0
        #: what went wrong with a process by itself
        self.complaints: list[str] = []

    def fill(self) -> None:
        """Start what is missing."""
        while len(self.of(WORKER)) < self._size:
            self._start(WORKER)
        if not self.is_enqueued and not self.of(ENQUEUER):
            self._start(ENQUEUER)

    def of(self, role: str) -> list[Child]:
        """Return the processes of one role that have not ended."""
        return [child for child in self.children if child.role == role]

    def free(self, role: str) -> list[Child]:
        """Return those that are up and have no blow on its way."""
        return [child for child in self.of(role) if child.struck is None and child.look()]

    def _start(self, role: str) -> Child:
        self._made += 1
        place = self._place.of_process(role, self._made)
        if self._made > self._size + 1:  # it replaces one of the first
            place = replace(place, older="")
        command = [sys.executable, "-m", f"crash.{role}"]
        with place.path("log").open("wb") as log:
            streams: Any = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
            streams["env"] = place.environment()
            if place.older:  # a forked one has imported the present version
                process: Any = subprocess.Popen(command, **streams)
            else:
                process = ForkedPython(command, imports=IMPORTS, **streams)
        child = Child(place.name, role, process, place.path("journal"))
        self.children.append(child)
        self.all.append(child)
        return child

    def reap(self) -> list[Child]:
        """Take away those that have ended, and return them."""
        ended = [child for child in self.children if child.process.poll() is not None]
        for child in ended:
            self.children.remove(child)
            assert child.process.stdin is not None
            child.process.stdin.close()
            self._judge(child)
            struck = child.own_strike()
            ended_at = child.struck_at if child.struck else time.monotonic()
            child.absences.append((ended_at if struck is None else struck.seconds, math.inf))
        return ended

    def _judge(self, child: Child) -> None:
        status = child.process.returncode
        if child.role == ENQUEUER and status == 0:
            self.is_enqueued = any(line.word == DONE for line in read(child.journal))
        if child.struck is signal.SIGKILL:
            expected = [-signal.SIGKILL]
        elif child.struck is signal.SIGTERM:
            # Before it has come up nothing in it hears a SIGTERM.
            expected = [0] if child.is_ready else [0, -signal.SIGTERM]
        else:
            expected = [0] if child.role == ENQUEUER else []
        if status not in expected:
            self.complaints.append(f"{child.name} ended with status {status} by itself")

    def stop(self) -> None:
        """Tell all to stop, and see that they do."""
        for child in self.children:
            child.process.send_signal(signal.SIGCONT)
            child.send(signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for child in self.children:
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.complaints.append(f"{child.name} did not stop when it was told to")
        self.reap()

    def kill(self) -> None:
        """Leave none behind, however the run has ended."""
        for child in self.children:
            child.process.kill()
            child.process.wait()
        self.reap()
