"""Other processes are notified of every job that becomes available, and only after the commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import transaction

import sqlqueues
from sqlqueues import PATIENCE_SECONDS, PREFIX, Place, place_of
from tgext.asyncjob import JobQueue, task
from tgext.asyncjob.backends.sql.notifier import ANY, Notifier
from tgext.asyncjob.job import READY

#: The names of queues that tests tell apart.
SLOW, QUICK = "slow", "quick"


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Iterator[Place]:
    with place_of("postgresql", tmp_path_factory.mktemp("place")) as made:
        yield made


@pytest.fixture
def queue(place: Place) -> Iterator[JobQueue]:
    with place.queue().as_current():
        yield place._open[-1]
    place.close_queues()
    place.empty()


class Hears:
    """Another process, which listens and does nothing else."""

    def __init__(self, place: Place) -> None:
        url = place.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(f'LISTEN "{PREFIX}jobs"')

    def next(self) -> str | None:
        """The name in the next notification; None: none came."""
        found = self._connection.notifies(timeout=PATIENCE_SECONDS, stop_after=1)
        return next((each.payload for each in found), None)

    def all(self) -> list[str]:
        """The names that have come; those of a closed queue have all been sent."""
        self._connection.execute("SELECT 1")
        return [each.payload for each in self._connection.notifies(timeout=0)]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def hears(place: Place) -> Iterator[Hears]:
    made = Hears(place)
    yield made
    made.close()


def fail() -> None:
    raise RuntimeError("it fails")


def enqueue_follow_up() -> None:
    sqlqueues.asyncjob_perform(sqlqueues.nothing)


def ended(queue: JobQueue, job: Any = sqlqueues.nothing) -> str:
    """Run a job to its end."""
    uid: str = queue.perform(job)
    queue.run_pending()
    return uid


def enqueue(queue: JobQueue) -> None:
    task(queue_name=SLOW)(sqlqueues.nothing).enqueue()


def enqueue_in_transaction(queue: JobQueue) -> None:
    with queue.in_transaction():
        enqueue(queue)
        transaction.commit()


def enqueue_with_work(queue: JobQueue) -> None:
    with queue.in_transaction():
        queue.session.execute(sqlqueues.effects.insert().values(text="work", amount=1))
        enqueue(queue)
        transaction.commit()


@pytest.mark.slow
@pytest.mark.parametrize("how", [enqueue, enqueue_in_transaction, enqueue_with_work])
def test_other_processes_are_notified_of_a_job_that_was_enqueued(
    queue: JobQueue, hears: Hears, how: Callable[[JobQueue], None]
) -> None:
    how(queue)

    assert hears.next() == SLOW


@pytest.mark.slow
def test_other_processes_are_notified_of_a_job_that_waits_again(
    place: Place, queue: JobQueue, hears: Hears
) -> None:
    uid = ended(queue)
    assert hears.next() == "default"
    queue.result(uid).retry()
    assert hears.next() == "default"

    claims = queue.backend.claim("w", None, 1)
    queue.backend.release(claims)
    assert hears.next() == "default"

    queue.run_pending()
    task(max_attempts=2, backoff=0, queue_name=QUICK)(fail).enqueue()
    assert hears.next() == QUICK
    queue.run_pending(1)
    assert [row.state for row in place.jobs()][-1:] == [0]  # it waits for its second attempt
    assert hears.next() == QUICK


@pytest.mark.slow
def test_other_processes_are_notified_of_the_jobs_of_a_dead_worker(
    place: Place, queue: JobQueue, hears: Hears
) -> None:
    queue.perform(sqlqueues.nothing)
    assert hears.next() == "default"
    dead = place.other_queue()
    assert len(dead.backend.claim("w", None, 1)) == 1
    dead.close()

    assert queue.backend.rescue() == 1
    assert hears.next() == ANY
    assert [queue.result(row.uid).status for row in place.jobs()] == [READY]


@pytest.mark.slow
def test_other_processes_are_notified_of_a_job_that_a_child_process_has_enqueued(
    place: Place, hears: Hears
) -> None:
    """And has ended since."""
    with place.queue(threads=1) as queue, queue.as_current():
        uid = task(executor="process")(enqueue_follow_up).enqueue()
        assert hears.next() == "default"
        queue.start_worker()
        assert uid.wait(PATIENCE_SECONDS).status == "SUCCESSFUL"
        assert hears.next() == "default"
    place.empty()


@pytest.mark.slow
def test_what_is_enqueued_last_is_notified_by_the_close_of_the_queue(
    place: Place, hears: Hears
) -> None:
    with place.queue() as queue:
        queue.perform(sqlqueues.nothing)

    assert hears.all() == ["default"]
    place.empty()


@pytest.mark.slow
def test_transaction_of_a_request_notifies_nobody(
    place: Place, queue: JobQueue, hears: Hears
) -> None:
    """It would wait for the commits of all others that do, until their data is on disk."""
    statements: list[str] = []
    seen = lambda *given: statements.append(given[2])  # noqa: E731
    sa.event.listen(place.engine, "before_cursor_execute", seen)
    try:
        enqueue_with_work(queue)
    finally:
        sa.event.remove(place.engine, "before_cursor_execute", seen)

    assert any("INSERT" in text and "jobs" in text for text in statements)
    assert not [text for text in statements if "notify" in text.lower()]
    assert hears.next() == SLOW


@pytest.mark.slow
def test_request_that_is_rolled_back_notifies_nobody(
    place: Place, queue: JobQueue, hears: Hears
) -> None:
    with queue.in_transaction():
        enqueue(queue)
        transaction.abort()
    queue.close()

    assert hears.all() == []


# -- the thread that sends


class SlowDialect:
    """Sends where a test lets it."""

    notifies = True

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

    def notify(self, names: list[str]) -> None:
        self.began.release()
        assert self.go_on.acquire(timeout=PATIENCE_SECONDS)
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.sent.append(names)


@pytest.fixture
def slow() -> SlowDialect:
    return SlowDialect()


@pytest.fixture
def notifier(slow: Any) -> Iterator[Notifier]:
    made = Notifier(slow.notify)
    yield made
    slow.go_on.release(100)
    made.close()


def test_jobs_that_come_while_one_notification_is_sent_are_notified_together(
    slow: SlowDialect, notifier: Notifier
) -> None:
    notifier.notify(["a"])
    assert slow.began.acquire(timeout=PATIENCE_SECONDS)
    for _ in range(100):
        notifier.notify(["b", "a"])
    slow.go_on.release(2)
    notifier.close()

    assert slow.sent == [["a"], ["a", "b"]]


def test_notification_that_fails_does_not_end_the_next(
    slow: SlowDialect, notifier: Notifier
) -> None:
    slow.error = OSError("the server is away")
    notifier.notify(["a"])
    assert slow.began.acquire(timeout=PATIENCE_SECONDS)
    slow.go_on.release(2)
    notifier.notify(["b"])
    notifier.close()

    assert slow.sent == [["b"]]


def test_notifier_begins_again_after_its_end(slow: SlowDialect, notifier: Notifier) -> None:
    slow.go_on.release(2)
    notifier.notify(["a"])
    notifier.close()
    notifier.notify(["b"])
    notifier.close()

    assert slow.sent == [["a"], ["b"]]


def test_database_without_notifications_costs_no_thread(tmp_path: Path) -> None:
    with place_of("sqlite", tmp_path) as place, place.queue() as queue:
        queue.perform(sqlqueues.nothing)
        assert not [each for each in threading.enumerate() if each.name == "asyncjob-notifier"]
