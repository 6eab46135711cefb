"""The kinds of sessions, isolation levels and databases of ``session_matrix``, each cell of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from session_matrix import KINDS, LEVELS, look, place_for
from sqlqueues import PREFIX, Place
from tgext.asyncjob import JobQueue

LONG = bool(os.environ.get("LONG"))

#: What is refused, everywhere or on one database, and by which words.
REFUSED = {
    "StaticPool": "got one with StaticPool",
    "AUTOCOMMIT": "got one in AUTOCOMMIT mode",
    "bound to a connection": "got one that is bound to a connection",
    "registered elsewhere": "registered for another transaction manager",
    "not registered": "got scoped_session; nothing would commit its work",
    "not scoped": "got sessionmaker; nothing would commit its work",
    "shared by threads": "one whose scopefunc is the same for two threads",
    ("sqlite", "twophase=True"): "got one with twophase=True on sqlite",
    # the application's own events begin a transaction there
    ("sqlite", "AUTOCOMMIT", "BEGIN said"): None,
}


pytestmark = pytest.mark.slow

#: Levels that a role or a server gives to all connections: what they change beside the same level
#: by create_engine() are the queue's own connections, which no session has to do with but by its
#: pool. Other kinds are tried at them with LONG=1 in the environment.
OF_ALL_CONNECTIONS = ("role's", "server's")
AT_ALL_LEVELS = ("scoped, registered", "asyncjob.url, no session", "NullPool", "pool of one")


@pytest.fixture(scope="module", params=list(LEVELS))
def place(request, tmp_path_factory) -> Iterator[Place]:
    with place_for(request.param, tmp_path_factory.mktemp("matrix")) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_session_of_each_kind_carries_its_jobs_at_each_level_or_is_refused(place, kind):
    for level in LEVELS[place.kind]:
        if level.startswith(OF_ALL_CONNECTIONS) and not (kind in AT_ALL_LEVELS or LONG):
            continue
        expected = REFUSED.get(kind, REFUSED.get((place.kind, kind)))
        expected = REFUSED.get((place.kind, kind, level), expected)

        found = look(place, kind, level)

        if expected is None:
            assert (level, found) == (level, "works")
        else:
            assert found.startswith("refused: ")
            assert expected in found


@pytest.mark.parametrize("place", ["postgresql", "mariadb"], indirect=True)
def test_connections_of_the_queue_say_their_isolation_level_themselves(place):
    for level in LEVELS[place.kind]:
        cell = KINDS["scoped, registered"](place, LEVELS[place.kind][level])
        with (
            cell.exits,
            JobQueue("sql", session=cell.make(), table_prefix=PREFIX, threads=0) as queue,
            queue.backend.schema._dialect.begin() as connection,
        ):
            asked = {"postgresql": "SHOW transaction_isolation", "mariadb": "SELECT @@tx_isolation"}
            found = connection.exec_driver_sql(asked[place.kind]).scalar()
        assert found.upper().replace("-", " ") == "READ COMMITTED"
