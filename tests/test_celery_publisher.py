"""Wake-ups by a broker: the options, the publisher, and what a broken broker costs a request."""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import transaction
from sqlalchemy import select

from celery import Celery  # type: ignore[import-untyped]
from celery_fleet import PATIENCE_SECONDS, broker_url, until
from own_brokers import Deaf, own_redis
from own_servers import _free_port
from sqlqueues import Place, nothing, place_of
from tgext.asyncjob import JobQueue, task
from tgext.asyncjob.backends.sql import relay
from tgext.asyncjob.cli.celery import arguments_of
from tgext.asyncjob.errors import ConfigError, MissingExtra
from tgext.asyncjob.fleet.settings import FleetSettings
from tgext.asyncjob.options import Options
from tgext.asyncjob.wakeups import make_publisher, publisher
from tgext.asyncjob.wakeups.message import broker_queue, checked, queue_name_of

CELERY = {"backend": "sql", "engine": "celery"}


# -- options


def refused(**options: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        Options.of(options)
    return str(raised.value)


def test_engine_celery_needs_the_backend_sql_and_says_both() -> None:
    for backend in ("memory", None):
        said = refused(engine="celery", backend=backend, broker_url="redis://h")
        assert "asyncjob.engine = celery" in said
        assert "expected asyncjob.backend = sql, got asyncjob.backend = memory" in said


def test_engine_celery_needs_a_broker_or_an_app_and_not_both() -> None:
    assert "expected asyncjob.broker_url, such as redis://" in refused(**CELERY)
    said = refused(**CELERY, broker_url="redis://h", celery_app="shop.celery:app")
    assert "expected no asyncjob.broker_url beside it, got both" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"engine": "celry"}, "asyncjob.engine: expected own or celery, got 'celry'; did you mean"),
        ({"broker_ulr": "x"}, "did you mean asyncjob.broker_url?"),
        ({"broker_url": "rabbitmq://u:geheim@h"}, "got rabbitmq://...; did you mean amqp://?"),
        ({"broker_url": "127.0.0.1:6379"}, "got a value without ://"),
        ({"celery_app": "shop.celery.app"}, "asyncjob.celery_app: expected MODULE:NAME"),
    ],
)
def test_near_miss_is_named_and_no_password_is_shown(options: Any, expected: str) -> None:
    said = refused(**options)

    assert expected in said
    assert "geheim" not in said


def test_process_that_serves_runs_no_jobs_by_itself_unless_told() -> None:
    assert Options.of({**CELERY, "broker_url": "redis://h"}).threads == 0
    assert Options.of({**CELERY, "broker_url": "redis://h", "threads": "2"}).threads == 2
    assert Options.of({}).threads == 1


@pytest.mark.parametrize("missing", ["celery", "redis"])
def test_missing_package_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(MissingExtra, match=r"asyncjob\[celery\]"):
        make_publisher(Options.of({**CELERY, "broker_url": "redis://h"}))


def test_app_that_is_none_is_refused() -> None:
    for path, said in (
        ("no.such:app", "there is no module 'no'"),
        ("sqlqueues:nothing", "expected a Celery app, got function"),
    ):
        with pytest.raises(ConfigError, match=said):
            make_publisher(Options.of({**CELERY, "celery_app": path}))


def test_private_app_is_nobody_elses() -> None:
    from celery._state import get_current_app

    from celery import current_app

    made: Any = make_publisher(Options.of({**CELERY, "broker_url": "redis://h"}))

    assert made._app is not get_current_app()
    assert made._app.fixups == []
    assert current_app.main != "asyncjob"
    assert made._app.conf.result_backend is None
    assert made._app.conf.worker_prefetch_multiplier == 1


def test_variables_for_the_celery_of_the_application_do_not_reach_a_private_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "amqp://theirs//")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "db+nix://theirs")
    monkeypatch.setenv("CELERY_LOADER", "default")
    made: Any = make_publisher(Options.of({**CELERY, "broker_url": "redis://ours:6379/0"}))
    app = made._app
    connections = [app.connection(), app.connection_for_read(), app.connection_for_write()]

    assert {each.hostname for each in connections} == {"ours"}
    assert app.backend.as_uri() == "disabled://"
    assert type(app.loader).__name__ == "AppLoader"


def test_worker_of_a_private_app_shuts_down_within_the_drain() -> None:
    settings = FleetSettings("redis://h", None, "shop_", 7.0, None, ["default"])

    assert settings.make_app().conf.worker_soft_shutdown_timeout == 7.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["worker", "--loglevel", "INFO"]),
        (["--", "worker", "-c", "2", "-l", "error"], ["worker", "-c", "2", "-l", "error"]),
        (["--", "inspect", "ping"], ["inspect", "ping"]),
    ],
)
def test_command_line_of_celery_is_what_follows_the_dashes(
    given: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    assert arguments_of(given) == expected


@pytest.mark.parametrize(
    "url", ["redis://a;redis://b", ["redis://a", "redis://b"], ("rediss://a", "redis://b")]
)
def test_own_app_with_several_brokers_waits_for_none_of_them(url: Any) -> None:
    app = Celery("own", broker=url, set_as_current=False)
    made: list[dict[str, Any]] = []

    class Refusing:
        def ensure_connection(self, **_: Any) -> None:
            raise ConnectionError

        release = ensure_connection

    def connect(_url: Any, **given: Any) -> Any:
        made.append(given["transport_options"])
        return Refusing()

    app.connection_for_write = connect
    with pytest.raises(ConnectionError):
        publisher.BrokerPublisher(app, "shop_", None).publish(["default"])

    assert made[0]["socket_timeout"] == publisher.TIMEOUT_SECONDS


# -- messages


def test_names_of_the_brokers_queues_go_both_ways() -> None:
    assert broker_queue("shop_", "mail") == "shop_mail"
    assert queue_name_of("shop_", "shop_mail") == "mail"
    assert queue_name_of("shop_", "celery") is None


@pytest.mark.parametrize("forged", [None, 1, "", "a b", "x" * 65, ["mail"], {"q": "mail"}, b"mail"])
def test_anything_but_the_name_of_a_queue_is_no_message(forged: Any) -> None:
    assert checked(forged) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_message_is_small_json_and_has_the_name_of_a_queue_alone(kind: str) -> None:
    prefix = f"m{time.monotonic_ns()}_"
    options = Options.of({**CELERY, "broker_url": broker_url(kind), "table_prefix": prefix[:30]})
    made: Any = make_publisher(options)
    made.publish(["q" * 64])
    name = broker_queue(prefix[:30], "q" * 64)
    with made._app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.basic_get(name)
        channel.queue_delete(name)
    made.close()

    assert message.content_type == "application/json"
    assert len(message.body) <= 200
    assert json.loads(message.body) == [
        ["q" * 64],
        {},
        {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]


# -- what it costs


class Publishes:
    """A publisher that notes what it is given, and when."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.seen: list[tuple[str, int]] = []  # the name, and how many rows were committed by then

    def publish(self, names: Any) -> None:
        tables = self.queue.backend.tables  # type: ignore[attr-defined]
        with self.queue.backend.engine.connect() as connection:  # type: ignore[attr-defined]
            rows = len(connection.execute(select(tables.jobs.c.uid)).all())
        self.seen += [(name, rows) for name in names]

    def close(self) -> None: ...

    def after_fork(self) -> None: ...


@pytest.fixture(scope="module")
def module_place(tmp_path_factory: Any) -> Iterator[Place]:
    with place_of("sqlite", tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    yield module_place
    transaction.abort()
    module_place.close_queues()
    module_place.empty()


def test_message_is_published_after_the_commit_and_none_after_an_abort(place: Place) -> None:
    queue = place.queue(engine="celery", broker_url="redis://127.0.0.1:1/0")
    queue.backend.relay._publisher = noted = Publishes(queue)  # type: ignore[attr-defined]

    with queue.in_transaction():
        queue.perform(nothing)
        transaction.abort()
    with queue.in_transaction():
        queue.perform(nothing)
        queue.perform(nothing)
        before = list(noted.seen)
        transaction.commit()
    until(lambda: noted.seen, "a message")

    assert before == []
    assert noted.seen == [("default", 2)]


def test_delayed_job_is_published_when_it_is_due(place: Place) -> None:
    queue = place.queue(engine="celery", broker_url="redis://127.0.0.1:1/0", threads=1)
    queue.backend.relay._publisher = noted = Publishes(queue)  # type: ignore[attr-defined]
    with queue.as_current():
        task(nothing).using(run_after=timedelta(hours=1)).enqueue()
    queue.backend.relay._notifier.close()  # type: ignore[attr-defined]

    assert noted.seen == []


class Broken:
    """A broker that is in no state to take a message."""

    def __init__(self, url: str, end: Callable[[], object]) -> None:
        self.url = url
        self.end = end


@pytest.fixture(params=["refusing", "deaf to redis", "deaf to amqp", "stopped", "full"])
def broken(request: Any) -> Iterator[Broken]:
    if request.param == "refusing":
        yield Broken(f"redis://127.0.0.1:{_free_port()}/0", lambda: None)
    elif request.param.startswith("deaf"):
        deaf = Deaf()
        scheme = request.param.rpartition(" ")[2]
        yield Broken(f"{scheme}://127.0.0.1:{deaf.port}/0", deaf.close)
        deaf.close()
    else:
        with own_redis() as redis:
            if request.param == "full":
                redis.kill()
                redis.start("--maxmemory", "1", "--maxmemory-policy", "noeviction")
            else:
                redis.signal(signal.SIGSTOP)
            yield Broken(redis.url, lambda: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a publisher give up, and try again, sooner than it would."""
    monkeypatch.setattr(publisher, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(publisher, "PAUSE_SECONDS", 0.05)
    for limits in publisher._LIMITS.values():
        for name in limits.keys() & TIMEOUTS:
            monkeypatch.setitem(limits, name, 0.2)


TIMEOUTS = {
    "socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout", "connect_timeout"
}  # fmt: skip


class Watched:
    """A publisher that notes which threads publish, and what that raises."""

    def __init__(self, publish: Callable[[Any], object]) -> None:
        self.threads: set[int] = set()
        self.errors: list[Exception] = []
        self._publish = publish

    def publish(self, names: Any) -> None:
        self.threads.add(threading.get_ident())
        try:
            self._publish(names)
        except Exception as error:
            self.errors.append(error)
            raise

    def close(self) -> None: ...

    def after_fork(self) -> None: ...


def make_available(queue: JobQueue) -> None:
    """All by which a request or a command makes jobs available."""
    uid = queue.perform(nothing)
    with queue.session_scope():
        queue.perform(nothing)
        task(nothing).enqueue_many([()] * 3)
    queue.pause("default")
    queue.resume("default")
    queue.result(uid).cancel()
    queue.result(uid).retry()


def test_request_waits_for_no_broker_whatever_it_does(place: Place) -> None:
    """Not by the clock: nothing is published by its thread, and the broker answers after it."""
    answer = threading.Event()
    mine = threading.get_ident()

    def publish(_names: Any) -> None:
        # In a thread that must not wait it returns, so that the test ends.
        if threading.get_ident() != mine and not answer.wait(PATIENCE_SECONDS):
            raise TimeoutError("the request waited for it")

    watched = Watched(publish)
    queue = place.queue(engine="celery", broker_url="redis://127.0.0.1:1/0")
    queue.backend.relay._publisher = watched  # type: ignore[attr-defined]
    try:
        with queue.as_current():
            make_available(queue)
            until(lambda: watched.threads, "a message")
            make_available(queue)
    finally:
        answer.set()

    assert mine not in watched.threads
    assert watched.errors == []


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_broken_broker_is_an_error_of_the_thread_that_publishes(
    place: Place, broken: Broken
) -> None:
    """What it costs a request is printed by benchmarks/celery.py."""
    queue = place.queue(engine="celery", broker_url=broken.url)
    relay = queue.backend.relay  # type: ignore[attr-defined]
    real = relay._publisher
    relay._publisher = watched = Watched(real.publish)
    with queue.as_current():
        make_available(queue)
        until(lambda: watched.errors, "an error")
        make_available(queue)
    relay._notifier.close()
    real.close()

    assert threading.get_ident() not in watched.threads
    assert len(place.jobs()) == 10


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_publisher_gives_up_and_works_again_when_the_broker_does() -> None:
    with own_redis() as redis:
        made: Any = make_publisher(Options.of({**CELERY, "broker_url": redis.url}))
        made.publish(["a"])
        redis.signal(signal.SIGSTOP)
        with pytest.raises(Exception, match=r"(?i)time"):
            made.publish(["a"])
        redis.signal(signal.SIGCONT)

        def works() -> bool:
            try:
                made.publish(["a"])
            except Exception:  # noqa: BLE001 - a broker raises its own errors
                return False
            return True

        until(works, "a message that was published")
        made.close()


def test_names_beyond_the_bound_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from tgext.asyncjob.backends.sql import notifier

    monkeypatch.setattr(notifier, "MOST_NAMES", 3)
    begun, go_on, sent = threading.Event(), threading.Event(), []

    def send(names: list[str]) -> None:
        begun.set()
        go_on.wait(10)
        sent.append(names)

    made = notifier.Notifier(send)
    made.notify(["first"])
    assert begun.wait(10)
    made.notify([f"{number}" for number in range(10)])
    go_on.set()
    made.close()

    assert sent == [["first"], ["0", "1", "2"]]


def test_relay_pauses_longer_each_time_and_at_most_ten_minutes() -> None:
    from types import SimpleNamespace

    def pause(times: int, head: int = 1) -> float:
        return relay._pause_seconds(SimpleNamespace(times=times, head=1), head)  # type: ignore[arg-type]

    assert [pause(times) for times in range(1, 10)] == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert pause(9, head=2) == relay.MOVING_SECONDS
