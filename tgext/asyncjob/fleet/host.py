"""A process that runs jobs for Celery: a child of its prefork pool, or a worker without children.

    message --> thread of Celery --> HostedWorker.run --> claims and attempts
    SIGTERM, SIGQUIT of this process --.
    the parent stops (end of its pipe) +--> watching thread --> drain

In the main thread a handler of Celery's or Billiard's would raise an exception anywhere, also in a
commit. So while jobs run in it, signals are only noted, and are raised again once the jobs have
ended: the drain lets running jobs end, or releases them, and their commits return.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, cast

from ..queue import JobQueue
from ..wakeups.message import checked
from ..worker import job_log
from ..worker.child_process import has_process_tasks

log = logging.getLogger(__name__)

#: Seconds that one message lets a thread claim. A long job runs to its end all the same.
CLAIM_SECONDS = 1.0

#: What is noted while jobs run in the main thread. The third is Celery's soft time limit: a job has
#: a timeout of its own, which never interrupts a commit.
_HELD = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1)

#: Seconds that a child of a worker that stops may take to end by itself, after its drain.
EXIT_SECONDS = 2.0

#: A second signal counts from so many seconds after the first.
SECOND_SECONDS = 1.0


class Host:
    """The worker of this process.

    queue: the application's, just loaded. threads: that Celery may use at once. queues: names of
    those to serve; None: all. parent: a pipe that ends when the parent stops; None: no parent.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        threads: int,
        queues: tuple[str, ...] | None,
        parent: int | None = None,
    ) -> None:
        job_log.install()
        self.queue = queue
        self._backend = cast(Any, queue.backend)
        self._backend.keep_to_process()
        self._parent = parent
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._draining_at: float | None = None
        self._closing: threading.Thread | None = None  # drains
        self._is_closed = False
        self._noted: list[int] = []  # signals
        if has_process_tasks():
            queue.open_fork_server()  # there is no thread yet whose locks it would copy
        queue.local_worker.arrange(threads=threads, queues=queues)
        self._is_child = parent is not None
        self._worker = queue.local_worker.host(self._on_stuck)
        self._watching = threading.Thread(target=self._watch, name="asyncjob-fleet", daemon=True)
        self._watching.start()

    def run(self, *arguments: object) -> int:
        """Run what is due, for one message; return how many jobs ran. Raises nothing.

        arguments: those of the message; for anything but the name of a queue nothing is done.
        """
        name = checked(arguments[0]) if len(arguments) == 1 else None
        if name is None:
            log.warning("expected a message with the name of a queue, got another: ignored")
            return 0
        with self._signals_held():
            return self._worker.run(CLAIM_SECONDS, partial(self._claimed, name))

    def _claimed(self, name: str, may_have_left: bool) -> None:
        if may_have_left:
            self._backend.relay.pass_on(name)

    # -- end

    def begin_drain(self) -> None:
        """Have the watching thread drain this process; for signal handlers too."""
        with suppress(OSError):
            os.write(self._wake_write, b".")

    def close(self) -> None:
        """End the worker, after a drain, before the process ends; may be called twice."""
        self.queue.close()
        if not self._is_closed:
            self._is_closed = True
            self.begin_drain()
            self._watching.join(SECOND_SECONDS)
            for descriptor in (self._wake_read, self._wake_write):
                os.close(descriptor)

    def _watch(self) -> None:
        sources = [self._wake_read, *([] if self._parent is None else [self._parent])]
        while not self._is_closed:
            ready, _, _ = select.select(sources, [], [])
            if self._parent in ready:
                sources.remove(self._parent)
                self._drain("the worker stops")
                self._in_thread(self._end_child)
            if self._wake_read in ready:
                os.read(self._wake_read, 100)
                if not self._is_closed:
                    self._drain("it was told to stop")

    def _drain(self, why: str) -> None:
        now = time.monotonic()
        if self._draining_at is None:
            self._draining_at = now
            log.info("process %d drains: %s", os.getpid(), why)
            self._closing = self._in_thread(self.queue.close)
        elif now - self._draining_at >= SECOND_SECONDS:
            log.warning("process %d was told to stop again: releasing its jobs", os.getpid())
            self._in_thread(self.queue.local_worker.stop_now)

    def _end_child(self) -> None:
        """End this process after its drain. Billiard would have it wait for up to 30 s until the
        parent, which may read no more, has noted the end of each message."""
        if self._closing is not None:
            self._closing.join()
        time.sleep(EXIT_SECONDS)
        os._exit(0)

    def _in_thread(self, act: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=act, name="asyncjob-closing", daemon=True)
        thread.start()
        return thread

    def _on_stuck(self) -> None:
        if self._is_child:
            log.error(
                "process %d ends: its thread hangs in a job that does not stop after its timeout",
                os.getpid(),
            )
            os.kill(os.getpid(), signal.SIGKILL)
        log.error("a thread of the pool hangs in a job that does not stop after its timeout")

    @contextmanager
    def _signals_held(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in _HELD}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            noted, self._noted = self._noted, []
            for each in dict.fromkeys(noted):
                os.kill(os.getpid(), each)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # It interrupts the main thread, which may hold any lock: no log line, no thread.
        if number != signal.SIGUSR1:
            self._noted.append(number)
            self.begin_drain()
