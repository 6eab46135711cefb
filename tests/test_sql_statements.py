"""A worker that is killed before each of its SQL statements in turn, and around its commits.

    clean run --> what the tables look like
    n = 1, 2, ...: a process runs the job and kills itself before its n-th statement;
                   a fresh worker ends the job --> the tables look the same

Real processes, a real SIGKILL: what the database has got of the dead one is what it has got.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import Engine, create_engine, delete, event, insert, select

from crash.mutants import MUTANTS
from databases import url_of
from photoalbum import jobs
from photoalbum.lib import darkroom, samples, storage
from photoalbum.model import ContactSheet, DBSession, Picture, init_model
from photoalbum.model import metadata as album_tables
from sqlchildren import ForkServer
from sqlqueues import (
    KINDS,
    PATIENCE_SECONDS,
    PREFIX,
    PREFIX_VARIABLE,
    Place,
    enqueue_at_commit,
    enqueue_two,
    nothing,
    options_of,
    place_of,
    write_in_parts,
    write_one,
    write_several,
)
from tgext.asyncjob import JobQueue
from tgext.asyncjob.job import READY, RUNNING

pytestmark = pytest.mark.slow

#: More statements than any job here comes to: then the counter does not count.
MOST = 100

#: Where the count begins, but for those jobs of which the claim is the same again.
SINCE = {nothing: "claim", write_one: "start"}

#: A claim, some work, and a mark: fewer, and the counter has missed them.
LEAST = 3


class Killer:
    """Ends this process, by SIGKILL, before its n-th statement or commit.

    Those of the thread that made it, on any engine; ``count`` begins to count.
    """

    def __init__(self, at: int) -> None:
        self._left = at
        self._thread = threading.get_ident()

    def count(self, *_event: Any) -> None:
        if threading.get_ident() == self._thread:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def begin(self) -> None:
        event.listen(Engine, "before_cursor_execute", self.count)
        event.listen(Engine, "commit", self.count)


def run_and_be_killed(url: str, at: int, since: str, mutant: str) -> None:
    """Run what waits, in a process of its own, up to its statement number *at*.

    since: where the count begins: at the "start" of the worker, at its "claim", in the "job".
    mutant: how the library is broken in that process; "": it is not.
    """
    if mutant:
        MUTANTS[mutant]()
    queue = JobQueue("sql", url=url, table_prefix=PREFIX, secret="swordfish", threads=0)
    run_up_to(queue, at, since)


def run_up_to(queue: JobQueue, at: int, since: str) -> None:
    killer, claim = Killer(at), queue.backend.claim

    def claim_and_count(worker_id: Any, *arguments: Any) -> Any:
        queue.backend.register(worker_id, None, 1)
        if since == "claim":
            killer.begin()
        found = claim(worker_id, *arguments)
        if since == "job":
            killer.begin()
        return found

    queue.backend.claim = claim_and_count  # type: ignore[method-assign]
    if since == "start":
        killer.begin()
    queue.run_pending(1)


def run_album(url: str, media_dir: str, at: int) -> None:
    """Be a worker of the sample application: killed at a statement of the job; at 0: the fresh
    worker that ends it."""
    make_pictures_small(media_dir)
    init_model(create_engine(url, **options_of(url)))
    queue = JobQueue("sql", session=DBSession, table_prefix=PREFIX, secret="swordfish", threads=0)
    if at:
        run_up_to(queue, at, "job")
    else:
        end_what_a_dead_worker_held(queue)


def make_pictures_small(media_dir: str) -> None:
    """Let the jobs do all they do, on pictures that cost nothing."""
    storage.tg = SimpleNamespace(config={"photoalbum.media_dir": media_dir})
    darkroom.THUMBNAIL_SIZE, darkroom.PREVIEW_SIZE, samples.SIZE = (48, 36), (60, 60), (64, 48)
    jobs.CANVAS_SIZE, jobs.TILE_SIZE, jobs.BRUSH_WIDTHS = (32, 32), 16, (3,)
    samples.SCENES = samples.SCENES[:2]


def marks(place: Place) -> list[tuple[Any, ...]]:
    """What the jobs have come to."""
    return [
        (row.name, row.state, row.result, row.attempts, row.cancelled, row.worker_id)
        for row in place.jobs()
    ]


def end_what_a_dead_worker_held(queue: JobQueue) -> None:
    """Be the fresh worker; a server needs a moment to see that the old one is dead."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        queue.run_pending()
        counts = queue.backend.counts()
        if not counts[READY] and not counts[RUNNING]:
            return
        assert time.monotonic() < until, f"nobody ends it: {counts}"
        threading.Event().wait(0.005)


def have_run_a_job(url: str) -> None:
    """Let the process that forks the others compile their statements."""
    with JobQueue("sql", url=url, table_prefix=PREFIX, secret="swordfish", threads=0) as queue:
        queue.perform(write_one, "work")
        queue.run_pending()


def have_run_the_album(url: str) -> None:
    """The same, for the workers of the sample application."""
    engine = create_engine(url, **options_of(url))
    init_model(engine)
    with JobQueue("sql", session=DBSession, table_prefix=PREFIX, threads=0) as queue:
        queue.perform(nothing)
        queue.run_pending()
    DBSession.remove()
    engine.dispose()


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer("sqlqueues", "test_sql_statements", **{PREFIX_VARIABLE: PREFIX}) as made:
        made.prepare("compiled_statements:share_statements")
        yield made


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any, fork_server: ForkServer) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        fork_server.prepare("test_sql_statements:have_run_a_job", url=made.url)
        yield made


def left_by_deaths(
    place: Place, fork_server: ForkServer, job: Callable[..., Any], *, since: str, mutant: str = ""
) -> Iterator[Any]:
    """What a job has come to: in a clean run, then after a death before its first statement,
    before its second, and so on, and last after a run in which there was none to die at."""
    arguments = [] if job is nothing else ["work"]
    queue = place.queue(max_crashes=2)
    try:
        place.empty()
        queue.perform(job, *arguments)
        queue.run_pending()
        yield place.written(), marks(place)
        ended = -signal.SIGKILL
        for at in range(1, MOST):
            place.empty()
            queue.perform(job, *arguments)
            ended = fork_server.run(
                "test_sql_statements:run_and_be_killed",
                url=place.url, at=at, since=since, mutant=mutant,
            )  # fmt: skip
            assert ended in (0, -signal.SIGKILL)
            end_what_a_dead_worker_held(queue)
            yield place.written(), marks(place)
            if ended == 0:
                break
        assert ended == 0
    finally:
        place.close_queues()


@pytest.mark.parametrize(
    "job",
    [nothing, write_one, write_several, write_in_parts, enqueue_two, enqueue_at_commit],
)
def test_job_killed_before_any_of_its_statements_ends_as_if_it_had_not_been(
    place, fork_server, job
):
    since = SINCE.get(job, "job")

    clean, *after_deaths, after_none = left_by_deaths(place, fork_server, job, since=since)

    assert after_none == clean
    for statement, each in enumerate(after_deaths, 1):
        assert each == clean, f"killed before statement {statement}"
    # claim and mark of a job that does nothing may each be one statement that commits by itself
    assert len(after_deaths) >= LEAST - (job is nothing)


def test_a_mark_that_is_committed_apart_from_the_work_is_noticed(place, fork_server):
    left = left_by_deaths(place, fork_server, write_one, since="job", mutant="split")

    clean, *after_deaths, after_none = left

    assert after_none == clean  # as long as nobody dies, nobody notices
    assert any(each != clean for each in after_deaths)


# -- the sample application's jobs


class AlbumOnDisk:
    """Two pictures, in the database and in the media folder."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(url_of("sqlite", folder))
        self.media = folder / "media"
        storage.make_folders(self.media)
        for name in ("a.jpg", "b.jpg"):
            Image.new("RGB", (64, 48), "#4a7c9b").save(self.media / "originals" / name)
        album_tables.create_all(self.place.engine)

    def begin_anew(self) -> None:
        self.place.empty()
        with self.place.engine.begin() as connection:
            for model_class in (Picture, ContactSheet):
                connection.execute(delete(model_class))
            for number, name in enumerate(("a.jpg", "b.jpg"), 1):
                row = {"id": number, "title": name, "original": name, "width": 64, "height": 48}
                connection.execute(insert(Picture).values(**row))

    def rows(self) -> list[tuple[Any, ...]]:
        """Everything but file names and colours of noise, which differ from run to run."""
        with self.place.engine.connect() as connection:
            pictures = connection.execute(
                select(
                    Picture.id, Picture.title, Picture.width, Picture.height,
                    Picture.developed.is_not(None), Picture.colour.is_not(None),
                )
            )  # fmt: skip
            sheets = connection.execute(select(ContactSheet.id, ContactSheet.picture_count))
            return [tuple(row) for found in (pictures, sheets) for row in found]


@pytest.fixture(scope="module")
def album(tmp_path_factory: Any, fork_server: ForkServer) -> Iterator[AlbumOnDisk]:
    made = AlbumOnDisk(tmp_path_factory.mktemp("album"))
    fork_server.prepare("test_sql_statements:have_run_the_album", url=made.place.url)
    yield made
    made.place.drop()


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        (jobs.develop, [[1, 2]]),
        (jobs.add_samples, []),
        (jobs.paint_in_oil, [1]),
        (jobs.read_damaged, []),
    ],
    ids=["develop", "add_samples", "paint_in_oil", "read_damaged"],
)
def test_job_of_the_sample_application_killed_before_any_of_its_statements(
    album, fork_server, job, arguments
):
    def run(at: int) -> int:
        return fork_server.run(
            "test_sql_statements:run_album",
            url=album.place.url, media_dir=str(album.media), at=at,
        )  # fmt: skip

    queue = album.place.queue()
    album.begin_anew()
    queue.perform(job, *arguments)
    assert run(0) == 0
    clean = (album.rows(), marks(album.place))

    deaths = 0
    for at in range(1, MOST):
        album.begin_anew()
        queue.perform(job, *arguments)
        ended = run(at)
        assert ended in (0, -signal.SIGKILL)
        assert run(0) == 0
        assert (album.rows(), marks(album.place)) == clean, f"killed before statement {at}"
        if ended == 0:
            break
        deaths += 1

    album.place.close_queues()
    assert LEAST <= deaths < MOST - 1
