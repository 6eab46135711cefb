"""Real workers of Celery on real brokers, for the tests of the engine celery.

A worker is ``python -m tgext.asyncjob celery --app celery_fleet:made_queue -- worker ...``, forked
from a process that has imported all (``forked_python``). The names of the broker's queues begin
with the prefix of the tables, so runs beside each other on one broker do not meet.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from databases import _listens
from forked_python import OF_COMMANDS, ForkedPython
from needs import need
from sqlqueues import PREFIX, PREFIX_VARIABLE
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.sql import relay
from tgext.asyncjob.fleet import host

TESTS = Path(__file__).resolve().parent

#: By kind: name, port, URL.
BROKERS = {
    "redis": ("Redis", 6379, "redis://127.0.0.1:6379/9"),
    "rabbitmq": ("RabbitMQ", 5672, "amqp://guest:guest@127.0.0.1:5672//"),
    "quorum queues": ("RabbitMQ", 5672, f"amqp://guest:guest@127.0.0.1:5672/{PREFIX}"),
}

#: What a worker of Celery imports.
OF_CELERY = (
    "tgext.asyncjob.fleet.fleet celery.bin.celery celery.bin.worker celery.apps.worker"
    " celery.worker.components celery.worker.consumer celery.concurrency.prefork"
    " celery.concurrency.thread celery.concurrency.solo celery.loaders.app kombu.transport.redis"
    " kombu.transport.pyamqp kombu.asynchronous.hub celery.app.amqp celery.app.control"
    " celery.app.log celery.backends.base celery.events.dispatcher celery.events.receiver"
    " celery.worker.autoscale celery.worker.consumer.delayed_delivery kombu.pidbox"
    " billiard.popen_fork billiard.sharedctypes billiard.synchronize"
    " tgext.asyncjob.fleet.consumer tgext.asyncjob.wakeups.app"
)

#: What the process that workers are forked from imports.
IMPORTS = f"{OF_COMMANDS} sqlqueues celery_fleet worker_contract {OF_CELERY}"

#: What a worker of a test is told by its environment: options of its queue, and the file in which
#: each process that makes one notes its pid.
OPTIONS_VARIABLE = "ASYNCJOB_TEST_OPTIONS"
LOADS_VARIABLE = "ASYNCJOB_TEST_LOADS"

# The process that workers are forked from imports sqlqueues with this prefix.
os.environ[PREFIX_VARIABLE] = PREFIX

#: The longest that a test waits for anything. Nothing that is right comes near it.
PATIENCE_SECONDS = 60


def broker_url(kind: str) -> str:
    """Return the URL of a broker; needs its server."""
    name, port, url = BROKERS[kind]
    need(_listens(port), f"{name} on 127.0.0.1:{port} (Debian: .ci/run installs and starts it)")
    return url


def made_queue() -> JobQueue:
    """Make the queue of a worker; called in the processes of the worker."""
    options = json.loads(os.environ[OPTIONS_VARIABLE])
    if problem := options.pop("problem", None):
        raise RuntimeError(problem)
    relay.ROUND_SECONDS, host.EXIT_SECONDS = 0.3, 0.2  # what nobody need wait for here
    if path := os.environ.get(LOADS_VARIABLE):
        with open(path, "a") as loads:
            loads.write(f"{os.getpid()}\n")
    return JobQueue("sql", **options)


@contextmanager
def quorum_queues() -> Iterator[None]:
    """Have a virtual host of RabbitMQ for a block, whose queues are quorum queues."""
    control("add_vhost", PREFIX, "--default-queue-type", "quorum")
    try:
        control("set_permissions", "-p", PREFIX, "guest", ".*", ".*", ".*")
        yield
    finally:
        control("delete_vhost", PREFIX)


def control(*words: str) -> None:
    """Have RabbitMQ do something; root may, or who is root by sudo, as in .ci/run."""
    command = [] if os.getuid() == 0 else ["sudo", "-n"]
    done = subprocess.run(
        [*command, "rabbitmqctl", "-q", *words], capture_output=True, text=True, check=False
    )
    need(done.returncode == 0, f"rabbitmqctl {words[0]}, as root: {done.stdout}{done.stderr}")


def made_once() -> JobQueue:
    """Make the queue in the first process that asks for it, and in no other."""
    path = Path(os.environ["ASYNCJOB_TEST_ONCE"])
    if path.exists():
        raise RuntimeError("only the first process can be made")
    path.touch()
    return made_queue()


def exited_later() -> JobQueue:
    """The same for an application that ends its process where it cannot be made."""
    try:
        return made_once()
    except RuntimeError as error:
        sys.exit(f"{error}")


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until *condition* is true, and return what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"expected {what} within {seconds:g} s"
        time.sleep(0.02)  # another process is waited for: nothing tells but to look
    return found


class OwnWorkers:
    """``python -m tgext.asyncjob worker``; as a context manager."""

    def __init__(self, url: str, folder: Path, *arguments: str) -> None:
        self._url = url
        command = [
            sys.executable, "-m", "tgext.asyncjob", "worker", "--url", url, "--secret", "swordfish",
            "--table-prefix", PREFIX, *arguments,
        ]  # fmt: skip
        with open(folder / "own.log", "wb") as log:
            self._process: subprocess.Popen[bytes] = ForkedPython(
                command, imports=IMPORTS, cwd=TESTS, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def queue(self) -> JobQueue:
        return JobQueue("sql", url=self._url, secret="swordfish", table_prefix=PREFIX, threads=0)

    def __enter__(self) -> OwnWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


class CeleryWorker:
    """One ``celery worker``, with its log."""

    def __init__(
        self,
        options: dict[str, Any],
        *arguments: str,
        folder: Path,
        variables: dict[str, str] | None = None,
        app: str = "celery_fleet:made_queue",
    ) -> None:
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
            OPTIONS_VARIABLE: json.dumps(options),
            **(variables or {}),
        }
        command = [
            sys.executable, "-m", "tgext.asyncjob", "celery", "--app", app, "--",
            "worker", "--without-mingle", "--without-gossip", "-l", "info", *arguments,
        ]  # fmt: skip
        with open(self.log, "wb") as log:
            self.process: subprocess.Popen[bytes] = ForkedPython(
                command, imports=IMPORTS, cwd=TESTS, env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        """Its log."""
        return self.log.read_text("utf-8", "replace")

    def wait_until_ready(self) -> CeleryWorker:
        """Return when it consumes messages."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.text()[-3000:]
            return " ready." in self.text()

        until(is_ready, "a worker that is ready")
        return self

    def children(self) -> list[int]:
        """The pids of its pool."""
        pid = self.process.pid
        with suppress(FileNotFoundError, ProcessLookupError):
            return [
                int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            ]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the parent alone."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it as SIGTERM does; return its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Kill the parent, and with it its children."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)


class Fleet:
    """Workers on one broker and one database; ``options``: those of their queues. broker: the URL
    of one of its own kind; None: that of ``broker_url``."""

    def __init__(
        self, kind: str, url: str, folder: Path, *, broker: str | None = None, **options: Any
    ) -> None:
        self.kind = kind
        self.broker = broker or broker_url(kind)
        self.folder = folder
        self.options: dict[str, Any] = {
            "url": url,
            "secret": "swordfish",
            "table_prefix": PREFIX,
            "engine": "celery",
            "broker_url": self.broker,
            "drain_timeout": 5,
            "lease": 4,
            **options,
        }
        self.workers: list[CeleryWorker] = []
        self._queues: set[str] = set()

    def start(self, *arguments: str, ready: bool = True, **given: Any) -> CeleryWorker:
        """Start a worker. given: options that differ, ``variables`` and ``app``."""
        others = {name: given.pop(name) for name in ("variables", "app") if name in given}
        options = {name: value for name, value in {**self.options, **given}.items() if value}
        made = CeleryWorker(options, *arguments, folder=self.folder, **others)
        self.workers.append(made)
        return made.wait_until_ready() if ready else made

    def queue(self, **given: Any) -> JobQueue:
        """Make a queue of another process of the application, which runs no jobs."""
        return JobQueue("sql", **{**self.options, **given})

    def length(self, name: str = "default") -> int:
        """How many messages wait in the broker for a queue."""
        with self._connection() as connection:
            channel = connection.default_channel
            if self.kind == "redis":
                return int(channel.client.llen(f"{PREFIX}{name}"))
            with suppress(connection.channel_errors):
                return int(channel.queue_declare(f"{PREFIX}{name}", passive=True).message_count)
            return 0

    def empty(self, *names: str) -> int:
        """Remove the messages of some queues; return how many."""
        with self._connection() as connection:
            channel = connection.default_channel
            removed = 0
            for name in names or ("default",):
                with suppress(connection.channel_errors):
                    removed += channel.queue_purge(f"{PREFIX}{name}") or 0
            return removed

    def _connection(self) -> Any:
        from kombu import Connection

        return Connection(self.broker, connect_timeout=5)

    def close(self) -> None:
        """End the workers, and remove their queues from the broker."""
        for worker in self.workers:
            worker.kill()
        with self._connection() as connection:
            if self.kind == "redis":
                client = connection.default_channel.client
                for key in client.scan_iter(match=f"*{PREFIX}*"):
                    client.delete(key)
            else:
                for name in ("default", "mail", "other", "late"):
                    with suppress(connection.channel_errors):
                        connection.channel().queue_delete(f"{PREFIX}{name}")


@contextmanager
def fleet_of(kind: str, url: str, folder: Path, **options: Any) -> Iterator[Fleet]:
    """A ``Fleet`` for the tests of a module; without workers. kind: one of BROKERS."""
    made = Fleet(kind, url, folder, **options)
    with quorum_queues() if kind == "quorum queues" else nullcontext():
        try:
            yield made
        finally:
            made.close()
