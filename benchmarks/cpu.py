"""CPU seconds of this process, and of what works for its connections in a server on this machine.

They hardly change with the load of the machine, as the seconds that pass do. PostgreSQL has a
process for each connection, MariaDB a thread; Linux tells of both in /proc.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa


class Cpu:
    """Counts from the first connection on; of a server elsewhere it counts nothing."""

    def __init__(self) -> None:
        self._servers: list[tuple[Path, int]] = []  # with what they had used before
        sa.event.listen(sa.Engine, "connect", self._connected)

    def _connected(self, connection: Any, _record: object) -> None:
        find = _SERVERS.get(type(connection).__module__.partition(".")[0])
        if find is not None:
            server = Path(f"/proc/{find(connection)}/schedstat")
            self._servers.append((server, _nanoseconds(server)))

    def spent(self) -> tuple[float, float]:
        """Return the CPU seconds of this process, and those with its servers."""
        own = time.process_time()
        servers = sum(_nanoseconds(server) - before for server, before in self._servers)
        return own, own + servers / 1e9


def _nanoseconds(server: Path) -> int:
    with suppress(OSError):  # its connection is closed, or it is on another machine
        return int(server.read_text().split()[0])
    return 0


def _of_postgresql(connection: Any) -> int:
    pid: int = connection.info.backend_pid
    return pid


def _of_mariadb(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute("select tid from information_schema.processlist where id = connection_id()")
        return int(cursor.fetchone()[0])


_SERVERS: dict[str, Callable[[Any], int]] = {"psycopg": _of_postgresql, "pymysql": _of_mariadb}
