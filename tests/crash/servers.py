"""The database of one run, in the coordinator's hands: a server of its own, or a SQLite file.

The processes of the run come to a server by way of a proxy, which loses some answers. What is
done to it is done to this run alone: a shared server can be neither restarted nor made read-only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from sqlalchemy import NullPool, create_engine, text

from own_servers import OwnServer, own_server

from .place import MARIADB, POSTGRESQL, SQLITE, Place
from .proxy import AnswerProxy, answer_proxy
from .schedule import ENQUEUER, WORKER

_OF_POSTGRESQL = """
SELECT pid, state = 'active' OR state LIKE 'idle in transaction%' AS works
FROM pg_stat_activity WHERE application_name LIKE :names
"""
#: Each role is a user of its own there.
_OF_MARIADB = """
SELECT id, command <> 'Sleep' OR EXISTS (
  SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = processlist.id
) AS works FROM information_schema.processlist WHERE user = :role
"""


class Database:
    """kind: as in ``Place.database``. server: None for SQLite."""

    def __init__(
        self, kind: str, server: OwnServer | None = None, proxy: AnswerProxy | None = None
    ) -> None:
        self.kind = kind
        self._server = server
        self._proxy = proxy
        if server is not None:
            self._admin = create_engine(
                server.url, isolation_level="AUTOCOMMIT", poolclass=NullPool
            )
        if kind == MARIADB:
            self._execute(
                *(
                    f"{grant} '{role}'@'{host}'"
                    for grant in ("CREATE USER", "GRANT ALL ON test.* TO")
                    for role in (WORKER, ENQUEUER)
                    for host in ("localhost", "127.0.0.1")
                )
            )

    def found_from(self, place: Place) -> Place:
        """Return *place* with the ports that its processes need."""
        if self._server is None or self._proxy is None:
            return place
        return replace(place, port=self._server.port, lossy_port=self._proxy.port)

    @property
    def lost_answers(self) -> int:
        """How many answers of commits were lost until now."""
        return 0 if self._proxy is None else self._proxy.lost

    def cut_one(self, place: Place, role: str, draw: float, *, idle: bool) -> bool:
        """Cut a connection of a process of *role*, one that works if there is any, or an *idle*
        one: those by which a worker hears and is seen are idle. False if there is none."""
        found = self._connections(place, role)
        choice = [number for number, works in found if works is not idle]
        choice = choice or [number for number, _ in found]
        if not choice:
            return False
        number = choice[int(draw * len(choice))]
        end = "SELECT pg_terminate_backend({})" if self.kind == POSTGRESQL else "KILL CONNECTION {}"
        with suppress(Exception):  # it may have ended by itself in this moment
            self._execute(end.format(number))
        return True

    def restart(self) -> None:
        """End the server as a power cut would, and start it again."""
        assert self._server is not None
        self._server.kill()
        self._server.start()

    def read_only(self, yes: bool) -> None:
        """Let it take no writes, or let it again."""
        assert self._server is not None
        self._server.read_only(yes)

    def _connections(self, place: Place, role: str) -> list[tuple[int, bool]]:
        if self.kind == POSTGRESQL:
            wanted, names = _OF_POSTGRESQL, f"{place.prefix}{role}%".replace("_", r"\_")
        else:
            wanted, names = _OF_MARIADB, ""
        with self._admin.connect() as connection:
            rows = connection.execute(text(wanted), {"names": names, "role": role}).all()
        return [(int(number), bool(works)) for number, works in rows]

    def _execute(self, *statements: str) -> None:
        with self._admin.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@contextmanager
def database_of(kind: str, loses_every: int) -> Iterator[Database]:
    """Run the database for a block. loses_every: the answers of which commits go lost; 0: none."""
    if kind == SQLITE:
        yield Database(kind)
        return
    with own_server(kind) as server, answer_proxy(server.port, loses_every) as proxy:
        yield Database(kind, server, proxy)
