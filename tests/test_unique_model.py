"""Keys are kept and freed as documented, by every transition, on every backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from databases import url_of
from test_sql_backend import KINDS, Database
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.uniqueness import LATEST, PERIOD, UNFINISHED, WAITING
from unique_model import RETENTION_SECONDS, check

SCOPES = (WAITING, UNFINISHED, PERIOD, LATEST)

#: Examples on memory and on a database; with LONG=1 in the environment a hundred times as many, or
#: more.
EXAMPLES, EXAMPLES_SQL = (6_000, 600) if os.environ.get("LONG") else (60, 3)


@pytest.fixture(scope="module", params=KINDS)
def database(request: Any, tmp_path_factory: Any) -> Iterator[Database]:
    made = Database(url_of(request.param, tmp_path_factory.mktemp("sql")))
    yield made
    made.drop()


@pytest.mark.parametrize("scope", SCOPES)
def test_memory_backend_does_what_the_model_does(scope: str) -> None:
    check(
        lambda clock: MemoryBackend(retention_seconds=RETENTION_SECONDS, clock=clock),
        scope,
        number=EXAMPLES,
    )


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES)
def test_sql_backend_does_what_the_model_does(database: Database, scope: str) -> None:
    made: list[SqlBackend] = []

    def close() -> None:
        for each in made:
            database.empty(each)
            each.close()
        made.clear()

    def fresh(clock: Any) -> SqlBackend:
        close()
        made.append(
            database.backend(retention_seconds=RETENTION_SECONDS, clock=clock, monotonic=clock)
        )
        return made[-1]

    try:
        check(fresh, scope, number=EXAMPLES_SQL)
    finally:
        close()
