"""The briefs of a queue: those of its backend, of this thread's transaction, and of a tracker."""

from __future__ import annotations

from typing import Any

import pytest
import transaction
from sqlalchemy import event

from sqlqueues import KINDS, PREFIX, Place, nothing, place_of
from tgext.asyncjob import JobQueue
from tgext.asyncjob.job import READY, RUNNING, Progress, WorkerId


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Any:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture
def queue(place: Place) -> Any:
    yield place.queue()
    place.close_queues()
    place.empty()


def test_job_of_this_threads_transaction_is_ready_before_its_commit(queue: JobQueue) -> None:
    with queue.in_transaction():
        uid = queue.perform(nothing)
        pending = queue.results.briefs([uid, "unknown"])
        elsewhere = queue.backend.briefs([uid])
        transaction.commit()

    assert {each: brief.status for each, brief in pending.items()} == {uid: READY}
    assert elsewhere == {}
    assert queue.backend.briefs([uid])[uid].status is READY


def test_fifty_briefs_are_a_query_of_a_database_and_one_of_the_queue_they_wait_in(
    place: Place, queue: JobQueue
) -> None:
    uids = [queue.perform(nothing) for _ in range(50)]
    backend: Any = queue.backend
    for claim in backend.claim(WorkerId("w1"), None, 25):
        backend.report(claim, Progress(1, "one", 2))
    backend._progress._write()
    statements: list[str] = []
    engines = {backend._dialect.engine, backend._dialect.side_database}
    for engine in engines:
        event.listen(
            engine, "before_cursor_execute", lambda *given: statements.append(str(given[2]))
        )

    found = queue.results.briefs(uids)

    asked = [text for text in statements if PREFIX in text]
    assert len(asked) == len(engines) + 1, asked
    assert all(text.startswith("SELECT") for text in asked)
    assert [found[uid].status for uid in uids] == [RUNNING] * 25 + [READY] * 25
    assert [found[uid].text for uid in uids] == ["one"] * 25 + [None] * 25


def test_data_that_is_far_too_long_is_not_read(queue: JobQueue) -> None:
    uid = queue.perform(nothing)
    backend: Any = queue.backend
    [claim] = backend.claim(WorkerId("w2"), None, 1)
    backend.report(claim, Progress(1, "x" * 100_000))
    backend._progress._write()

    assert (backend.briefs([uid])[uid].value, backend.briefs([uid])[uid].text) == (1, None)


class Tracker:
    """Says of every job what a test has told it."""

    reported: Any = None

    def track(self, uid: str) -> None: ...
    def set_progress(self, uid: str, value: int, data: Any) -> None: ...
    def remove(self, uid: str) -> None: ...

    def get_progress(self, uid: str) -> Any:
        return self.reported


def test_brief_has_the_progress_of_the_applications_tracker() -> None:
    tracker = Tracker()
    with JobQueue(threads=0, progress_tracker=tracker) as queue:
        uid = queue.perform(nothing)
        before = queue.results.briefs([uid])[uid]
        tracker.reported = (4, {"text": "four"})
        after = queue.results.briefs([uid])[uid]
        queue.run_pending()
        ended = queue.results.briefs([uid])[uid]

    assert (before.value, before.text) == (-1, None)
    assert (after.value, after.total, after.text) == (4, None, "four")
    assert (ended.value, ended.text) == (-1, None)
