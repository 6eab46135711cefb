"""The broker of one run, and the proxy through which its messages go."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kombu import Connection  # type: ignore[attr-defined]

from needs import need
from own_brokers import OwnRedis
from own_servers import PATIENCE_SECONDS, _free_port

#: How many of a hundred messages are lost, and how many are doubled.
LOST, DOUBLED = 10, 10

RABBITMQ = Path("/usr/lib/rabbitmq/bin")


class Broker:
    """A server with two places for messages: those that are sent, and those that are received."""

    url_in: str
    url_out: str

    def restart(self, seconds: float) -> None:
        """Stop it for a while; what it held is lost."""
        raise NotImplementedError

    def hang(self, seconds: float) -> None:
        """Let it not answer for a while."""
        raise NotImplementedError

    def empty(self, names: list[str]) -> None:
        """Remove all messages. names: of the broker's queues."""
        raise NotImplementedError


class Redis(Broker):
    def __init__(self, server: OwnRedis) -> None:
        self._server = server
        self.url_in = f"redis://127.0.0.1:{server.port}/0"
        self.url_out = f"redis://127.0.0.1:{server.port}/1"

    def restart(self, seconds: float) -> None:
        self._server.kill()
        time.sleep(seconds)
        self._server.start()

    def hang(self, seconds: float) -> None:
        self._server.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._server.signal(signal.SIGCONT)

    def empty(self, names: list[str]) -> None:
        self._server.empty()


class RabbitMq(Broker):
    """A node of its own, as its own user; its two places are virtual hosts.

    queue_type: of queues whose client names no type, as the workers' and publishers' does not.
    """

    def __init__(self, queue_type: str) -> None:
        self._queue_type = queue_type
        need((RABBITMQ / "rabbitmq-server").exists(), "RabbitMQ (Debian: rabbitmq-server)")
        self.folder = Path(tempfile.mkdtemp(prefix="asyncjob-rabbitmq-"))
        self.port = _free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"crash{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        self.url_in = f"amqp://guest:guest@127.0.0.1:{self.port}/in"
        self.url_out = f"amqp://guest:guest@127.0.0.1:{self.port}/out"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                [RABBITMQ / "rabbitmq-server"], env=self._environment, cwd=self.folder,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 2 * PATIENCE_SECONDS
        while not self._control("await_startup", "--timeout", "60", must=False):
            assert time.monotonic() < until, (self.folder / "output").read_text()[-2000:]
        for host in ("in", "out"):
            self._control("add_vhost", host, "--default-queue-type", self._queue_type)
            self._control("set_permissions", "-p", host, "guest", ".*", ".*", ".*")

    def _control(self, *words: str, must: bool = True) -> bool:
        done = subprocess.run(
            [RABBITMQ / "rabbitmqctl", "-q", *words], env=self._environment, cwd=self.folder,
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        assert not (must and done.returncode), done.stdout + done.stderr
        return done.returncode == 0

    def restart(self, seconds: float) -> None:
        self._control("stop_app")
        time.sleep(seconds)
        self._control("start_app")

    def hang(self, seconds: float) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.killpg(self._process.pid, signal.SIGCONT)

    def empty(self, names: list[str]) -> None:
        for url in (self.url_in, self.url_out):
            with suppress(Exception), Connection(url, connect_timeout=2) as connection:
                for name in names:
                    with suppress(Exception):
                        connection.channel().queue_purge(name)

    def remove(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)


#: The brokers of which there are some. RabbitMQ's queues are classic where nothing else is said.
KINDS = ("redis", "rabbitmq", "rabbitmq-quorum")


@contextmanager
def broker_of(kind: str) -> Iterator[Broker]:
    """Run a broker for a block. kind: one of KINDS."""
    if kind == "redis":
        server = OwnRedis()
        try:
            server.start()
            yield Redis(server)
        finally:
            server.remove()
        return
    rabbit = RabbitMq(kind.partition("-")[2] or "classic")
    try:
        rabbit.start()
        yield rabbit
    finally:
        rabbit.remove()


class MessageProxy:
    """Moves messages from where they are sent to where they are received: most of them once.

    names: the broker's queues. seed: of which are lost, and which are doubled.
    """

    def __init__(self, broker: Broker, names: list[str], seed: int) -> None:
        self._names = names
        self._broker = broker
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self.moved = self.lost = self.doubled = 0
        self._thread = threading.Thread(target=self._run, name="message-proxy", daemon=True)

    def __enter__(self) -> MessageProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(Exception):  # the broker is stopped, or hangs
                self._move_all()
            self._stop.wait(0.3)

    def _move_all(self) -> None:
        options = {"socket_timeout": 3, "read_timeout": 3, "write_timeout": 3}
        url_in, url_out = self._broker.url_in, self._broker.url_out
        kind = "amqp" if url_in.startswith("amqp") else "redis"
        options = {k: v for k, v in options.items() if k.startswith("socket") == (kind == "redis")}
        with (
            Connection(url_in, connect_timeout=2, transport_options=options) as source,
            Connection(url_out, connect_timeout=2, transport_options=options) as target,
        ):
            producer = target.Producer()
            queues = [source.SimpleQueue(name).queue for name in self._names]

            def move(message: Any) -> None:
                draw = self._chance.random() * 100
                times = 0 if draw < LOST else 2 if draw < LOST + DOUBLED else 1
                for _ in range(times):
                    producer.publish(
                        message.body, routing_key=message.delivery_info["routing_key"],
                        headers=message.headers, content_type=message.content_type,
                        content_encoding=message.content_encoding, delivery_mode=1,
                        correlation_id=message.properties.get("correlation_id"), reply_to="",
                    )  # fmt: skip
                message.ack()
                self.moved += 1
                self.lost += times == 0
                self.doubled += times == 2

            with source.Consumer(queues, on_message=move):
                while not self._stop.is_set():
                    with suppress(TimeoutError):
                        source.drain_events(timeout=0.5)
