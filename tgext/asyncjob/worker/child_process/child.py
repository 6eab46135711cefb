"""The process of an attempt: it runs one, in a thread, and ends.

On a backend that processes share the attempt works with a backend of its own, as in a process of
a worker. On one that only the worker's process has, each question goes over the line.

    main thread   reads the line: answers for the job's thread, orders that end the job
    job's thread  the attempt; then says what it came to
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ...backends.base import ClaimingBackend
from ...current import queue_var, shielded
from ...errors import NotInJob
from ...executors.remote_errors import Failure
from ...job import Claim, Job
from ...processes.forking import set_title
from .. import job_log
from ..attempt import Attempt
from ..environment import AttemptEnvironment
from ..safe_points import stack_of
from .messages import ANSWER, ASK, END, STACK, UNREAD, check_travels, not_kept, pack, unpack

#: Called in the process of an attempt, with its end of the line; returns what attempts work with
#: there, and what closes it.
Adopt = Callable[["Line"], "tuple[AttemptEnvironment, Callable[[], None]]"]

log = logging.getLogger(__name__)

#: Seconds after an order in which the job's database connections are left alone: a statement that
#: is under way would hold its locks on the server when this process is gone.
CUT_SECONDS = 0.25


class Line:
    """The job's end of the line: questions go out, each is answered before the next."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pid = os.getpid()
        self._asking = threading.RLock()
        self._sending = threading.Lock()
        self._number = 0
        #: what the main thread has read for the one that asks
        self.answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.claim: Claim | None = None

    def say(self, message: bytes) -> None:
        """Send a message, if there still is a worker."""
        with self._sending, suppress(OSError):
            self._connection.send_bytes(message)

    @shielded
    def ask(self, of_whom: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Return what a method of the worker's *of_whom* returns; raises what it raises, and what
        pickle has against the arguments."""
        if os.getpid() != self._pid:  # the line is the parent's, and so would be the answer
            raise NotInJob(f"{of_whom}.{method}")
        with self._asking:
            self._number += 1
            question = pack((self._number, of_whom, method, args, kwargs), self.claim)
            self.say(ASK + question)
            number = 0
            while number != self._number and number is not None:
                number, succeeded, value = unpack(self.answers.get(), self.claim)
        if succeeded:
            return value
        raise value.exception()

    def tracker(self) -> Any:
        """Stand for the worker's progress tracker."""
        return _Far(self, "tracker")

    def backend(self, near: ClaimingBackend) -> Any:
        """Stand for the worker's backend. near: this process's copy of it, without its jobs."""
        return _FarBackend(self, near)


class _Far:
    """Has the methods of an object that the worker has."""

    def __init__(self, line: Line, name: str) -> None:
        self._line = line
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._line.ask, self._name, method)


class _FarBackend(_Far):
    is_shared = has_one_writer = False

    def __init__(self, line: Line, near: ClaimingBackend) -> None:
        super().__init__(line, "backend")
        self.name = near.name
        self._prepare = near.prepare
        # What is raised here cannot always be sent.
        self.is_passing, self.is_conflict = near.is_passing, near.is_conflict
        self.is_loss = near.is_loss

    def prepare(self, job: Job) -> Job:
        """Refuse it now and not after the commit, when it is sent."""
        check_travels(job.call, job.options)
        return self._prepare(job)

    def after_fork(self) -> None:
        """Nothing: what the job forks goes without jobs."""

    def close(self) -> None:
        """Nothing: it is the worker's."""


def live(connection: Connection, adopt: Adopt) -> int:
    """Run the attempt that comes over the line; return the exit status. In the main thread."""
    # They reach the whole process group; this process ends when its job has, or its parent. Not
    # SIG_IGN, which would be handed on to every program that the job starts.
    signal.signal(signal.SIGTERM, _do_nothing)
    job_log.install()
    line = Line(connection)
    job = _Job(line, adopt)
    try:
        letter = connection.recv_bytes()
        threading.Thread(target=job.run, args=(letter,), name="asyncjob-apart", daemon=True).start()
        while True:
            message = connection.recv_bytes()
            kind, content = message[:1], message[1:]
            if kind == ANSWER:
                line.answers.put(content)
            else:
                job.end(unpack(content))
    except (EOFError, OSError):
        return 0  # told everything, or nobody is left to be told


class _AttemptHere(Attempt):
    """Tells the worker of a commit that carries no mark: from its beginning on only this process
    knows whether it came about, and must not be killed."""

    __slots__ = ("_line",)

    def __init__(self, claim: Claim, environment: AttemptEnvironment, line: Line) -> None:
        super().__init__(claim, environment)
        self._line = line

    def _prepare_commit(self, value: Any) -> None:
        super()._prepare_commit(value)
        if self._completion.is_fenced:
            self._line.ask("commit", "begins")

    def _run_call(self) -> Any:
        if self._completion.is_fenced:  # that one did not come about
            self._line.ask("commit", "ends")
        return super()._run_call()


class _Job:
    """The one job of this process."""

    def __init__(self, line: Line, adopt: Adopt) -> None:
        self._line = line
        self._adopt = adopt
        self._attempt: Attempt | None = None
        self._thread = 0

    def run(self, letter: bytes) -> None:
        """Run the attempt, and say what it came to; in its thread."""
        self._thread = threading.get_ident()
        try:
            claim, environment, close = self._read(letter)
        except Exception as error:  # noqa: BLE001 - reading imports modules of the application
            self._line.say(UNREAD + pack(Failure.of(error)))
            return
        set_title(f"job {claim.job.uid} {claim.job.call.name}")
        queue_var.set(environment.queue)
        self._attempt = attempt = _AttemptHere(claim, environment, self._line)
        attempt.run()
        try:
            close()  # writes the last progress, and says goodbye
        except Exception:
            log.exception("job=%s could not close the connections of its process", attempt.uid)
        self._line.say(END + _packed_end(attempt, environment))

    def _read(self, letter: bytes) -> tuple[Claim, AttemptEnvironment, Callable[[], None]]:
        claim, asks_backoff, warned = unpack(letter)
        if asks_backoff:
            backoff = partial(self._line.ask, "options", "backoff")
            options = replace(claim.job.options, backoff=backoff)
            claim = claim._replace(job=claim.job._replace(options=options))
        self._line.claim = claim
        environment, close = self._adopt(self._line)
        environment.commits_in_parts.update(warned)
        return claim, environment, close

    def end(self, error: type[BaseException]) -> None:
        """Raise *error* in the job."""
        attempt = self._attempt
        self._line.say(STACK + pack(stack_of(self._thread)))
        if attempt is not None:
            cutting = threading.Timer(CUT_SECONDS, attempt.kill_connections)
            cutting.daemon = True
            cutting.start()
            attempt.interrupt(error)


def _packed_end(attempt: Attempt, environment: AttemptEnvironment) -> bytes:
    """Pack the outcome, its result by itself, and the calls that were warned of."""
    outcome, warned = attempt.outcome, environment.commits_in_parts
    if outcome is None:
        return pack((None, b"", warned))
    try:
        result = pack(outcome.result)
    except Exception as error:  # noqa: BLE001 - the result's own code runs
        result = pack(not_kept(attempt.uid, f"send a {type(outcome.result).__name__}", error))
    return pack((outcome._replace(result=None), result, warned))


def _do_nothing(_number: int, _frame: object) -> None:
    pass
