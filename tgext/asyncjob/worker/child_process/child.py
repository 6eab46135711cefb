"""The child process of an attempt: it runs one attempt, in a thread, and ends.

On a backend that processes share, the child has a backend of its own, as any worker process. On one
that only the worker's process has, each call of the backend goes over the channel.

    main thread    reads the channel: answers for the job's thread, interruptions of the job
    job's thread   runs the attempt; then sends its outcome
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

from ...backends.base import Backend
from ...current import queue_var, shielded
from ...errors import NotInJob
from ...executors.remote_errors import Failure
from ...job import Claim, Job
from ...processes.forking import set_title
from .. import job_log
from ..attempt import Attempt
from ..environment import AttemptEnvironment
from ..safe_points import stack_of
from .messages import ANSWER, ASK, END, STACK, UNREAD, check_picklable, not_kept, pack, unpack

#: Called in the child with its end of the channel; returns the environment of the attempt, and a
#: function that closes it.
MakeEnvironment = Callable[["ParentChannel"], "tuple[AttemptEnvironment, Callable[[], None]]"]

log = logging.getLogger(__name__)

#: Seconds after an interruption before the job's database connections are killed: a statement that
#: runs would hold its locks on the server after this process has ended.
KILL_CONNECTIONS_SECONDS = 0.25


class ParentChannel:
    """The child's end of the channel. Each call is answered before the next is sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pid = os.getpid()
        self._asking = threading.RLock()
        self._sending = threading.Lock()
        self._number = 0
        #: answers that the main thread has read for the thread that asks
        self.answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.claim: Claim | None = None

    def send(self, message: bytes) -> None:
        """Send a message; do nothing if the worker is gone."""
        with self._sending, suppress(OSError):
            self._connection.send_bytes(message)

    @shielded
    def ask(self, target: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call *method* of the worker's *target*, and return what it returns.

        Raises what the method raises, what pickling the arguments raises, and NotInJob in a process
        that the job has forked.
        """
        if os.getpid() != self._pid:  # its parent would read the answer
            raise NotInJob(f"{target}.{method}")
        with self._asking:
            self._number += 1
            question = pack((self._number, target, method, args, kwargs), self.claim)
            self.send(ASK + question)
            number = 0
            while number != self._number and number is not None:
                number, succeeded, value = unpack(self.answers.get(), self.claim)
        if succeeded:
            return value
        raise value.exception()

    def tracker(self) -> Any:
        """Return a proxy of the worker's progress tracker."""
        return _Proxy(self, "tracker")

    def backend(self, local: Backend) -> Any:
        """Return a proxy of the worker's backend. local: this process's copy, without the jobs."""
        return _ProxyBackend(self, local)


class _Proxy:
    """Calls the methods of an object of the worker."""

    def __init__(self, channel: ParentChannel, name: str) -> None:
        self._channel = channel
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._channel.ask, self._name, method)


class _ProxyBackend(_Proxy):
    is_shared = has_one_writer = False

    def __init__(self, channel: ParentChannel, local: Backend) -> None:
        super().__init__(channel, "backend")
        self.name = local.name
        self.schedules = _Proxy(channel, "schedules")
        self._prepare = local.prepare
        # Asked here: not every exception that is raised in this process can be sent.
        self.is_passing, self.is_conflict = local.is_passing, local.is_conflict
        self.is_loss = local.is_loss

    def prepare(self, job: Job, like: Job | None = None) -> Job:
        """Raise NotSerializable now, and not after the commit, when the job is sent."""
        check_picklable(job.call, job.options)
        return self._prepare(job, like)

    def after_fork(self) -> None:
        """Do nothing: a process that the job forks has no jobs."""

    def close(self) -> None:
        """Do nothing: the backend is the worker's."""


def run_child(connection: Connection, make_environment: MakeEnvironment) -> int:
    """Run the attempt that the worker sends; return the exit status. For the main thread."""
    # A SIGTERM may reach the whole process group; this process ends with its job or its parent. It
    # is not ignored by SIG_IGN, which every program that the job starts would inherit.
    signal.signal(signal.SIGTERM, _do_nothing)
    job_log.install()
    channel = ParentChannel(connection)
    job = _Job(channel, make_environment)
    try:
        request = connection.recv_bytes()
        threading.Thread(
            target=job.run, args=(request,), name="asyncjob-attempt", daemon=True
        ).start()
        while True:
            message = connection.recv_bytes()
            kind, content = message[:1], message[1:]
            if kind == ANSWER:
                channel.answers.put(content)
            else:
                job.end(unpack(content))
    except (EOFError, OSError):
        return 0  # the attempt has ended, or the worker is gone


class ChildAttempt(Attempt):
    """Tells the worker of a commit that does not carry the completion: once it has begun, only this
    process knows whether it succeeds, and must not be killed."""

    __slots__ = ("_channel",)

    def __init__(
        self, claim: Claim, environment: AttemptEnvironment, channel: ParentChannel
    ) -> None:
        super().__init__(claim, environment)
        self._channel = channel

    def _prepare_commit(self, value: Any) -> None:
        super()._prepare_commit(value)
        if self._completion.is_fenced:
            self._channel.ask("commit", "begins")

    def _run_call(self) -> Any:
        if self._completion.is_fenced:  # the commit before was rolled back
            self._channel.ask("commit", "ends")
        return super()._run_call()


class _Job:
    """The job of this process."""

    def __init__(self, channel: ParentChannel, make_environment: MakeEnvironment) -> None:
        self._channel = channel
        self._make_environment = make_environment
        self._attempt: Attempt | None = None
        self._thread = 0

    def run(self, request: bytes) -> None:
        """Run the attempt, and send its outcome; in a thread of its own."""
        self._thread = threading.get_ident()
        try:
            claim, environment, close = self._read(request)
        except Exception as error:  # noqa: BLE001 - reading imports modules of the application
            self._channel.send(UNREAD + pack(Failure.of(error)))
            return
        set_title(f"job {claim.job.uid} {claim.job.call.name}")
        queue_var.set(environment.queue)
        self._attempt = attempt = ChildAttempt(claim, environment, self._channel)
        attempt.run()
        try:
            close()  # writes the last progress, and disconnects
        except Exception:
            log.exception("job=%s could not close the connections of its process", attempt.uid)
        self._channel.send(END + _packed_end(attempt, environment))

    def _read(self, request: bytes) -> tuple[Claim, AttemptEnvironment, Callable[[], None]]:
        claim, asks_backoff, warned = unpack(request)
        if asks_backoff:
            backoff = partial(self._channel.ask, "options", "backoff")
            options = replace(claim.job.options, backoff=backoff)
            claim = claim._replace(job=claim.job._replace(options=options))
        self._channel.claim = claim
        environment, close = self._make_environment(self._channel)
        environment.commits_in_parts.update(warned)
        return claim, environment, close

    def end(self, error: type[BaseException]) -> None:
        """Raise *error* in the job."""
        attempt = self._attempt
        self._channel.send(STACK + pack(stack_of(self._thread)))
        if attempt is not None:
            killing = threading.Timer(KILL_CONNECTIONS_SECONDS, attempt.kill_connections)
            killing.daemon = True
            killing.start()
            attempt.interrupt(error)


def _packed_end(attempt: Attempt, environment: AttemptEnvironment) -> bytes:
    """Pack the outcome, its result separately, and the calls that were warned of."""
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
