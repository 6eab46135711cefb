"""Who is measured, on which database, with which options, and in whose process.

A contestant has one process for the whole run, and another where its worker is to be elsewhere;
its tables are new for each table that is printed.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from children import ChildFailed
from environment import peers_python
from sqlstands import Places, Stand


@dataclass(frozen=True)
class Contestant:
    """A contender in a database, with options of its own."""

    kind: str
    database: str
    name: str
    options: tuple[tuple[str, int], ...] = ()
    share: float = 1.0  #: of the jobs that the others drain: less for who would take minutes
    share_of_backlog: float = 1.0  #: of the jobs drained beside a backlog, likewise

    @property
    def python(self) -> str:
        peers = ("pgqueuer", "procrastinate", "chancy")
        return peers_python() if self.kind in peers else sys.executable


def ours(database: str, threads: int, signed: bool = True) -> Contestant:
    name = f"ours, {threads} thread{'s'[: threads != 1]}{'' if signed else ', no secret'}"
    return Contestant("ours", database, name, (("threads", threads), ("signed", int(signed))))


SQLITE, POSTGRESQL, MARIADB = "sqlite", "postgresql", "mariadb"
CORE = {
    each: Contestant("core", each, "bare SQLAlchemy Core") for each in (SQLITE, POSTGRESQL, MARIADB)
}
COPY = Contestant("copy", POSTGRESQL, "bare COPY")
SESSION = {
    each: Contestant("session", each, "the same in a session") for each in (SQLITE, POSTGRESQL)
}
LOOPS = {
    SQLITE: Contestant("sqlite loop", SQLITE, "bare sqlite3 loop"),
    POSTGRESQL: Contestant("psycopg loop", POSTGRESQL, "bare psycopg loop"),
}
NOTIFY = Contestant("notify", POSTGRESQL, "bare LISTEN/NOTIFY loop")
CLAIM = Contestant("claim", POSTGRESQL, "bare insert, NOTIFY and claim")
HUEY = Contestant("huey", SQLITE, "Huey")
# as fast as it gets on 2 cores, and as its own benchmark has it
PGQUEUER = Contestant(
    "pgqueuer", POSTGRESQL, "PgQueuer, batches of 1000", (("dequeuers", 1), ("batch", 1000))
)
PGQUEUER_ITS_OWN = Contestant(
    "pgqueuer", POSTGRESQL, "PgQueuer, 5 x batches of 10", (("dequeuers", 5), ("batch", 10))
)
# A twentieth of the others' rate, measured. Beside a million it runs two or three jobs a second:
# each of its claims walks past those that are delayed
PROCRASTINATE = Contestant(
    "procrastinate", POSTGRESQL, "Procrastinate", share=0.1, share_of_backlog=0.002
)
CHANCY = Contestant("chancy", POSTGRESQL, "chancy")
PEERS = [PGQUEUER, PROCRASTINATE]
if sys.version_info >= (3, 11):  # chancy is written with what that brought
    PEERS.append(CHANCY)


class Hall:
    """The processes of a run, started when they are first needed, and where they work."""

    def __init__(self, places: Places, stack: contextlib.ExitStack) -> None:
        self._places = places
        self._stack = stack
        self._stands: dict[tuple[Contestant, str], Stand] = {}

    def stand(self, one: Contestant, role: str = "") -> Stand:
        if (one, role) not in self._stands:
            self._stands[one, role] = self._stack.enter_context(Stand(one.python))
        return self._stands[one, role]

    @contextlib.contextmanager
    def opened(self, field: Sequence[Contestant], roles: Sequence[str] = ("",)) -> Iterator[None]:
        """Open all of *field* at new places, each role at one of its own."""
        stands = [(self.stand(one, role), one) for role in roles for one in field]
        try:
            for stand, one in stands:
                self._open(stand, one, self._places.new(one.database), create=True)
            yield
        finally:
            self._end([(stand, "close") for stand, _ in stands])
            self._places.clear()

    @contextlib.contextmanager
    def serving(self, field: Sequence[Contestant]) -> Iterator[dict[Contestant, str]]:
        """Open all of *field*, each with a worker in another process; the pipes of its stamps."""
        pipes: dict[Contestant, str] = {}
        try:
            for one in field:
                url, pipes[one] = self._places.new(one.database), self._places.pipe()
                self._open(self.stand(one), one, url, create=True)
                worker = self.stand(one, "worker")
                self._open(worker, one, url, create=False)
                worker.ask("serve", stamps=pipes[one])
            yield pipes
        finally:
            for one in pipes:
                worker = self.stand(one, "worker")
                self._end([(worker, "rest"), (worker, "close"), (self.stand(one), "close")])
            self._places.clear()

    @staticmethod
    def _end(asked: Sequence[tuple[Stand, str]]) -> None:
        for stand, question in asked:
            with contextlib.suppress(ChildFailed):  # told where it failed first
                stand.ask(question)

    @staticmethod
    def _open(stand: Stand, one: Contestant, url: str, **parameters: Any) -> None:
        stand.ask("open", kind=one.kind, url=url, **parameters, **dict(one.options))
