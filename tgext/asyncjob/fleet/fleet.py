"""Connects one Celery app to the jobs of an application: its one task, and a step of its worker.

    parent   FleetStep    decides what is served, tells the children when to stop
    child    worker_process_init --> load the application, once --> Host
    both     the task     Host.run

Without children (``-P threads``, ``-P solo``) the parent is the host.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from celery.bin.celery import celery as program  # type: ignore[import-untyped]
from celery.worker import state  # type: ignore[import-untyped]
from click import Abort, ClickException

from celery import bootsteps, signals  # type: ignore[import-untyped]

from ..errors import ConfigError
from ..queue import JobQueue
from ..wakeups.message import TASK, broker_queue, queue_name_of
from .host import Host
from .settings import FleetSettings

log = logging.getLogger(__name__)

#: The exit status of a worker whose children cannot load the application: EX_CONFIG.
NOT_LOADED = 78

#: The most bytes of a child's report, and its end: several children may have reported before the
#: parent reads.
REPORT_BYTES, REPORT_END = 4000, b"\0"

#: Seconds after which the parent is told once more of a queue in which jobs wait: it may have had
#: no connection, and what it is told is kept nowhere.
AGAIN_SECONDS = 5.0

#: The pools that can run jobs: those of one process per job, of threads, and of one thread.
POOLS = ("prefork", "thread", "solo")


class Fleet:
    """One Celery app, and the application whose jobs its workers run.

    load: makes the application and returns its queue; called in each child. describe: what an error
    of it is reported as.
    """

    def __init__(
        self,
        app: Any,
        settings: FleetSettings,
        load: Callable[[], JobQueue],
        describe: Callable[[BaseException], str],
    ) -> None:
        self.app = app
        self.settings = settings
        self._load = load
        self._describe = describe
        self.queues: tuple[str, ...] | None = None
        self.host: Host | None = None
        self.is_chosen = False  # whether the command line names queues
        self._is_excluding = False  # whether it names some to leave out
        self._consumed: set[str] = set()
        self._asked: dict[str, float] = {}  # other queues, and when the parent was told of them
        self.node_name = ""  # of the worker, as Celery has it
        # The parent holds the end for writing: the children see when it is closed.
        self._parent_read, self._parent_write = os.pipe()
        self.report_read, self._report_write = os.pipe()

    def install(self) -> None:
        """Give the app its task and its step, and listen to its signals."""
        self.app.task(
            self._run, name=TASK, shared=False, ignore_result=True, acks_late=True,
            reject_on_worker_lost=True, max_retries=None, serializer="json", typing=False,
            # What is None is what an application's own app has for its tasks.
            rate_limit=0, track_started=False, store_errors_even_if_ignored=False,
        )  # fmt: skip
        fleet = self

        class Step(FleetStep):
            name = "asyncjob"

            def __init__(self, worker: Any, **options: Any) -> None:
                super().__init__(worker, fleet=fleet, **options)

        self.app.steps["worker"].add(Step)
        signals.celeryd_init.connect(self._on_options, weak=False)
        signals.worker_process_init.connect(self._on_child, weak=False)
        signals.worker_process_shutdown.connect(self._on_child_end, weak=False)
        signals.worker_shutting_down.connect(self._on_stop, weak=False)

    def start(self, arguments: list[str]) -> int:
        """Run Celery's program with this app; return its exit status."""
        # As Celery.start does, which loses the status. Celery takes a variable APP for its -A.
        option: Any = program.params[0]
        variable, option.default, option.envvar = option.envvar, self.app, None
        try:
            return int(program.main(args=arguments, standalone_mode=False) or 0)
        except ClickException as error:
            error.show()
            return int(error.exit_code)
        except Abort as error:  # Ctrl-C, or a question that was answered by no
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            return 1
        finally:
            option.default, option.envvar = None, variable

    def _run(self, *arguments: object, **named: object) -> None:
        if self.host is not None and not named:
            self.host.run(*arguments)

    # -- parent

    def _on_options(self, options: Any = None, **_: Any) -> None:
        given = options or {}
        self.is_chosen = bool(given.get("queues"))
        self._is_excluding = bool(given.get("exclude_queues"))

    def choose_queues(self, consumed: Any) -> None:
        """Decide which queues are served, and have them consumed. consumed: Celery's ``Queues``."""
        prefix = self.settings.table_prefix
        if self._is_excluding:
            raise ConfigError(
                "-X: expected -Q and the names of the queues to serve: a worker without -Q serves "
                "all, also those that are new"
            )
        if self.is_chosen:
            found = [queue_name_of(prefix, name) for name in consumed.consume_from]
            self.queues = tuple(name for name in found if name is not None)
            if not self.queues:
                raise ConfigError(
                    f"-Q: expected names that begin with {prefix!r} (asyncjob.table_prefix), such "
                    f"as {broker_queue(prefix, 'default')}, got {', '.join(consumed.consume_from)}"
                )
        else:
            wanted = self.settings.queues
            self.queues = None if wanted is None else tuple(wanted)
            for name in self.settings.known:
                consumed.select_add(consumed[broker_queue(prefix, name)])
        self._consumed = set(consumed.consume_from)

    def begin_drain(self) -> None:
        """Have all processes claim no more jobs, and end those that run; for signal handlers."""
        if self.host is not None:
            self.host.begin_drain()
        write, self._parent_write = self._parent_write, -1
        if write >= 0:
            with suppress(OSError):
                os.close(write)

    def _on_stop(self, **_: Any) -> None:
        self.begin_drain()

    def open_here(self, threads: int) -> None:
        """Load the application in this process, which has no children, and run its jobs."""
        self._open(threads, None)

    # -- child

    def _on_child(self, **_: Any) -> None:
        if self.host is not None:  # a pool without children sends this signal too
            return
        self._parent_write = self._close(self._parent_write)
        try:
            self._open(1, self._parent_read)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - of the application
            self._report(error)

    def _report(self, error: BaseException) -> None:
        """Tell the parent, which ends; wait for that, so that no other child is made meanwhile."""
        text = self._describe(error).encode("utf-8", "backslashreplace").replace(REPORT_END, b"?")
        os.write(self._report_write, (text[:REPORT_BYTES] or b"?") + REPORT_END)
        os.read(self._parent_read, 1)  # its end
        os._exit(NOT_LOADED)

    def _close(self, descriptor: int) -> int:
        if descriptor >= 0:
            os.close(descriptor)
        return -1

    def _on_child_end(self, **_: Any) -> None:
        if self.host is not None:
            self.host.close()

    # -- both

    def _open(self, threads: int, parent: int | None) -> None:
        queue = self._load()
        queue.allow_worker(False)  # the TurboGears integration has allowed it
        if queue.options.engine != "celery":
            raise ConfigError("expected asyncjob.engine = celery in the processes of a worker")
        self.host = Host(queue, threads=threads, queues=self.queues, parent=parent)
        backend: Any = queue.backend
        backend.relay.found = self._consume

    def _consume(self, queue_name: str) -> None:
        """Let the parent consume messages for a queue that it does not know yet; no other worker of
        the broker, which may not serve the queue, or be of another application."""
        name = broker_queue(self.settings.table_prefix, queue_name)
        if name in self._consumed or self.queues is not None:
            return
        now = time.monotonic()
        if now - self._asked.get(name, -inf) < AGAIN_SECONDS:
            return
        try:
            # KeyError: an own app may declare all its queues, and make no other.
            arguments = self.app.amqp.queues[name].queue_arguments
            self.app.control.add_consumer(
                name,
                destination=[self.node_name],
                options={"queue_arguments": arguments} if arguments else None,
            )
        except Exception as error:  # noqa: BLE001 - a broker raises its own errors
            log.info("could not have messages for queue %s consumed: %r", queue_name, error)
        else:
            self._asked[name] = now


class FleetStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """The step of ``celery worker``, in the parent."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, fleet: Fleet, **options: Any) -> None:
        super().__init__(worker, **options)
        self._fleet = fleet
        self._is_loaded = True
        pool = getattr(worker.pool_cls, "__module__", str(worker.pool_cls)).rpartition(".")[2]
        if pool not in POOLS:
            raise ConfigError(
                f"-P: expected prefork, threads or solo, got a pool of {pool}: it replaces the "
                "threads and sockets of Python, on which timeouts and heartbeats depend"
            )
        self._has_children = pool == "prefork"
        fleet.node_name = worker.hostname
        fleet.choose_queues(worker.app.amqp.queues)
        if not self._has_children:
            fleet.open_here(1 if pool == "solo" else worker.concurrency)

    def start(self, worker: Any) -> None:
        # Celery says that it stops only after its soft shutdown, which waits for our jobs.
        for number in (signal.SIGTERM, signal.SIGQUIT):
            self._wrap(number)
        if self._has_children:
            threading.Thread(
                target=self._watch, args=(worker,), name="asyncjob-fleet", daemon=True
            ).start()

    def _wrap(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        if callable(before) and threading.current_thread() is threading.main_thread():

            def handle(received: int, frame: Any) -> None:
                self._fleet.begin_drain()
                before(received, frame)

            signal.signal(number, handle)

    def _watch(self, worker: Any) -> None:
        """Wait for the first child that cannot load the application, and end the worker."""
        report, *_others = os.read(self._fleet.report_read, REPORT_BYTES).split(REPORT_END)
        self._is_loaded = False
        log.critical("%s", report.decode("utf-8", "replace"))
        state.should_stop = NOT_LOADED
        os.kill(os.getpid(), signal.SIGTERM)  # it may wait for its broker

    def close(self, worker: Any) -> None:
        self._fleet.begin_drain()

    def stop(self, worker: Any) -> None:
        if not self._is_loaded:
            worker.exitcode = NOT_LOADED
        if not self._has_children and self._fleet.host is not None:
            self._fleet.host.close()

    terminate = stop
