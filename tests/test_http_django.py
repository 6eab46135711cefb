"""DjangoWorker against a Django site in a process of its own: real models, a real server."""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import django_library
from test_slackers import in_tornado
from tgext.asyncjob import CallRefused
from tgext.asyncjob import slackers as adisp
from tgext.asyncjob.slackers import DjangoWorker, Slacker

PATIENCE_SECONDS = 20.0

# Before any model is imported; the database of the site is none of this process's business.
django_library.configure(":memory:")

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.db.models import Avg, Q  # noqa: E402
from django.test import override_settings  # noqa: E402

from django_library.models import Author, Book, add_author  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A site that was started for this module; gives ``host:port``."""
    running = subprocess.Popen(
        [sys.executable, "-m", "django_library", tmp_path_factory.mktemp("site") / "db.sqlite3"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert running.stdout is not None
    try:
        yield running.stdout.readline().strip()
    finally:
        running.kill()
        running.communicate()


@pytest.fixture(autouse=True)
def _server_of_the_settings(site: str) -> Iterator[None]:
    with override_settings(SLACKER_SERVER=site):
        yield


@pytest.fixture(autouse=True)
def library(_server_of_the_settings: None) -> Iterator[None]:
    """The tables of the site as they are before each test."""
    with DjangoWorker() as worker:
        for model in (Book, Author, User):
            result_of(Slacker(model, worker).objects.all().delete())
        for name, is_great, ratings in [("vasia", False, [3, 5]), ("petia", True, [1])]:
            author = result_of(Slacker(Author, worker).objects.create(name=name, is_great=is_great))
            for rating in ratings:
                result_of(Slacker(Book, worker).objects.create(author=author, rating=rating))
        for number in range(7):
            result_of(Slacker(User, worker).objects.create_user(f"u{number}", is_staff=number != 3))
        yield


@pytest.fixture
def worker() -> Iterator[DjangoWorker]:
    with DjangoWorker() as made:
        yield made


def result_of(postponed: Any) -> Any:
    return postponed.fetch().result(PATIENCE_SECONDS)


# -- the seed's programs


def test_seeds_program_of_users(worker):
    printed = []

    AsyncUser = Slacker(User, worker)

    @adisp.process
    def process_data():
        # all the django ORM is supported; the query will be executed
        # on remote end, this will not block the IOLoop
        users = yield AsyncUser.objects.filter(is_staff=True)[:5]
        printed.append(users)

    in_tornado(process_data)

    assert [user.username for user in printed[0]] == ["u0", "u1", "u2", "u4", "u5"]
    assert "<User: u0>" in repr(printed[0])


def test_seeds_later_program_of_users_with_fetch(worker):
    printed = []

    AsyncUser = Slacker(User, worker)

    @adisp.process
    def process_data():
        qs = AsyncUser.objects.filter(is_staff=True)[:5]

        # execute the query and get the results
        users = yield qs.fetch()
        printed.append(users)

    in_tornado(process_data)

    assert len(printed[0]) == 5


def test_seeds_program_of_authors(worker):
    AsyncAuthor = Slacker(Author, worker)

    @adisp.process
    def process_data():
        qs = (
            AsyncAuthor.objects.filter(Q(name="vasia") or Q(is_great=True))
            .values("name")
            .annotate(average_rating=Avg("book__rating"))[:10]
        )

        authors = yield qs
        return list(authors)

    assert in_tornado(process_data) == [{"name": "vasia", "average_rating": 4.0}]


def test_seeds_program_that_makes_a_superuser(worker):
    AsyncUser = Slacker(User, worker)

    @adisp.process
    def process_data():
        yield AsyncUser.objects.create_superuser("foo")
        return (yield AsyncUser.objects.get(username="foo").is_superuser)

    assert in_tornado(process_data) is True


def test_custom_managers_model_methods_and_attributes_are_run_there(worker):
    AsyncAuthor = Slacker(Author, worker)

    async def program() -> Any:
        great = AsyncAuthor.objects.great_ones()
        return await asyncio.gather(great.first().name, great[0].shouted(), great.count())

    assert asyncio.run(program()) == ["petia", "PETIA", 1]


# -- the hook as a view


def test_nothing_of_it_asks_the_database_of_the_caller(worker):
    assert settings.DATABASES["default"]["NAME"] == ":memory:"  # which has no tables

    assert result_of(Slacker(Author, worker).objects.count()) == 2


def test_error_of_the_orm_is_raised_here(worker):
    with pytest.raises(Author.DoesNotExist, match="does not exist"):
        result_of(Slacker(Author, worker).objects.get(name="nobody"))


def test_call_that_raises_is_rolled_back(worker):
    with pytest.raises(LookupError, match="koschei"):
        result_of(Slacker(add_author, worker)("koschei", fails=True))

    assert result_of(Slacker(Author, worker).objects.filter(name="koschei").exists()) is False


def test_call_that_returns_is_committed(worker):
    result_of(Slacker(add_author, worker)("koschei"))

    assert result_of(Slacker(Author, worker).objects.filter(name="koschei").exists()) is True


def test_target_that_is_not_in_slacker_allow_is_refused(worker):
    with pytest.raises(CallRefused) as caught:
        result_of(Slacker(asyncio, worker).sleep(0))

    assert caught.value.status == 403


def test_secret_of_another_site_is_refused(site):
    with (
        override_settings(SLACKER_SECRET="another"),
        DjangoWorker() as worker,
        pytest.raises(CallRefused) as caught,
    ):
        result_of(Slacker(Author, worker).objects.count())

    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [("POST", b"garbage", 401), ("GET", None, 405), ("POST", b"x" * 1_048_577, 413)],
)
def test_what_is_no_call_is_refused_and_the_site_goes_on(worker, site, method, body, status):
    connection = http.client.HTTPConnection(site, timeout=PATIENCE_SECONDS)
    connection.request(method, "/slacker/", body=body)
    response = connection.getresponse()
    response.read()
    connection.close()

    assert response.status == status
    assert result_of(Slacker(Author, worker).objects.count()) == 2


def test_worker_without_a_path_finds_the_hook_where_the_docs_have_it(site):
    with DjangoWorker(None, None) as worker:
        assert worker._path == "/slacker/"


@pytest.mark.slow
def test_server_has_the_default_of_the_development_server():
    with override_settings():
        del settings.SLACKER_SERVER
        worker = DjangoWorker()

    assert worker._address == "http://127.0.0.1:8000"
    worker.shutdown()
