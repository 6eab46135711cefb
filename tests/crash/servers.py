"""Connections cut from the server's side: of this run's processes, and of no others."""

from __future__ import annotations

from sqlalchemy import Engine, text

from .journal import CONNECTED, read_all
from .place import POSTGRESQL, Place

_OF_POSTGRESQL = """
SELECT pid, state = 'active' OR state LIKE 'idle in transaction%' AS works
FROM pg_stat_activity WHERE application_name LIKE :names
"""
_OF_MARIADB = """
SELECT id, command <> 'Sleep' OR EXISTS (
  SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = processlist.id
) AS works FROM information_schema.processlist
"""


def cut_one(engine: Engine, place: Place, role: str, draw: float) -> bool:
    """Cut a connection of a process of *role*: one that works, if there is any; False if there
    is none at all."""
    found = _connections(engine, place, role)
    busy = [number for number, works in found if works]
    choice = busy or [number for number, _ in found]
    if not choice:
        return False
    number = choice[int(draw * len(choice))]
    with engine.connect() as connection:
        if place.database == POSTGRESQL:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": number})
        else:
            connection.exec_driver_sql(f"KILL CONNECTION {number}")
    return True


def _connections(engine: Engine, place: Place, role: str) -> list[tuple[int, bool]]:
    with engine.connect() as connection:
        if place.database == POSTGRESQL:
            names = f"{place.prefix}{role}%".replace("_", r"\_")
            rows = connection.execute(text(_OF_POSTGRESQL), {"names": names}).all()
            return [(pid, bool(works)) for pid, works in rows]
        rows = connection.execute(text(_OF_MARIADB)).all()
    # A number is never given twice, so those of processes that have ended do no harm.
    ours = {
        int(line.subject)
        for line in read_all(place.folder)
        if line.word == CONNECTED and line.child.startswith(role)
    }
    return [(number, bool(works)) for number, works in rows if number in ours]
