"""Database servers of a test's own: to be restarted, counted and broken, which a shared one is not.

Each is a child process of the tests on a free port, with its data in a folder that goes with it.
The data is made once for each kind and copied from then on: that takes seconds, the copy does not.
All processes of a run of the tests share it, in a folder that conftest.py makes and removes.
Durability is off: what is tested is a server that dies, not a machine.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from needs import need

#: The variable that names the folder of a run of the tests, for all its processes.
FOLDER = "ASYNCJOB_TEST_SERVERS"

#: The variable of what a client asks PostgreSQL for; see conftest.py.
CLIENT_OPTIONS = "PGOPTIONS"

#: How long a server may take until it answers, in seconds.
PATIENCE_SECONDS = 30.0


class OwnServer:
    """One server; ``start`` and ``kill`` it as often as you like."""

    kind: str
    user: str  #: who it runs as where the tests run as root
    dies_by: signal.Signals  #: at once, children too, and nothing is written any more
    _ends_of_others: str  #: selects statements that end the connections of others
    _empties: tuple[str, ...]  #: statements that empty its database

    def __init__(self, **variables: str) -> None:
        self.variables = variables  #: more of them for its environment
        self.folder = Path(tempfile.mkdtemp(prefix="asyncjob-", dir=os.environ.get(FOLDER)))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam(self.user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self.log = self.folder / "log"

    def make(self) -> None:
        """Make its data."""
        self._run(self._makes())

    def make_as(self, folder: str) -> None:
        """Copy the data of another, in its *folder*, which never ran."""
        self._run(["cp", "-R", f"{folder}/data", f"{self.folder}/data"])

    def _makes(self) -> list[str]:
        raise NotImplementedError

    def _serves(self) -> list[str]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of an empty database."""
        raise NotImplementedError

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self._env, **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def _env(self) -> dict[str, str]:
        folder = str(self.folder)  # of its own for all: two that are made at once share no file
        own = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder, "LC_ALL": "C"}
        return {**own, **self.variables}

    def start(self) -> None:
        """Start it, and return when it answers."""
        with open(self.folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                self._serves(), stdout=output, stderr=output, cwd=self.folder, env=self._env,
                **self._as,
            )  # fmt: skip
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "output").read_text()[-2000:]
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.02)  # nothing tells when a server is ready but to ask it

    def _answers(self) -> bool:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.pool import NullPool

        with socket.socket() as probe:  # most often it says no: then that is cheaper
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        engine = create_engine(self.url, poolclass=NullPool)
        try:
            engine.connect().close()
        except DBAPIError:
            return False
        return True

    def processes(self) -> list[int]:
        """The numbers of its processes."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def read_only(self, yes: bool) -> None:
        """Let it take no writes, as a standby would that a failover leads to; or let it again."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for statement in self._read_only(yes):
                connection.exec_driver_sql(statement)

    def _read_only(self, yes: bool) -> list[str]:
        raise NotImplementedError

    def empty(self) -> None:
        """Let it answer, with an empty database and without connections of others."""
        from sqlalchemy import create_engine
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.pool import NullPool

        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.start()
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            for end in connection.exec_driver_sql(self._ends_of_others).scalars().all():
                with suppress(DBAPIError):  # it has ended by itself
                    connection.exec_driver_sql(end)
            for statement in (*self._read_only(False), *self._empties):
                connection.exec_driver_sql(statement)

    def kill(self) -> None:
        """End it, as if by a power cut."""
        if self._process is not None:
            self._process.send_signal(self.dies_by)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    def remove(self) -> None:
        """Kill it and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class OwnPostgreSql(OwnServer):
    kind = "postgresql"
    user = "postgres"
    dies_by = signal.SIGQUIT  # its "immediate" shutdown; a SIGKILL would leave its children
    _ends_of_others = (
        "SELECT 'SELECT pg_terminate_backend(' || pid || ')' FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    _empties = ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")

    def __init__(self, **variables: str) -> None:
        self._programs = _postgresql_programs()
        super().__init__(**variables)

    def _makes(self) -> list[str]:
        return [
            f"{self._programs}/initdb", "-D", f"{self.folder}/data", "-A", "trust",
            "-U", "postgres", "-E", "UTF8", "--no-sync",
        ]  # fmt: skip

    def _serves(self) -> list[str]:
        said = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "logging_collector": "on",
            "log_directory": str(self.folder),
            "log_filename": "log",
            "log_line_prefix": "%a|%p|",
            "max_prepared_transactions": "10",
        }
        options = [word for name, value in said.items() for word in ("-c", f"{name}={value}")]
        data = f"{self.folder}/data"
        return [f"{self._programs}/postgres", "-D", data, "-p", str(self.port), *options]

    def _read_only(self, yes: bool) -> list[str]:
        said = "on" if yes else "off"
        return [
            f"ALTER SYSTEM SET default_transaction_read_only = {said}", "SELECT pg_reload_conf()"
        ]  # fmt: skip

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"


class OwnMariaDb(OwnServer):
    kind = "mariadb"
    user = "mysql"
    dies_by = signal.SIGKILL
    _ends_of_others = (
        "SELECT concat('KILL CONNECTION ', id) FROM information_schema.processlist"
        " WHERE user <> 'system user' AND id <> connection_id()"
    )
    _empties = ("DROP DATABASE test", "CREATE DATABASE test")

    def __init__(self, **variables: str) -> None:
        for program in ("mariadb-install-db", _MARIADBD):
            need(_which(program), f"MariaDB's {program} (Debian: mariadb-server)")
        super().__init__(**variables)

    def _makes(self) -> list[str]:
        return [
            str(_which("mariadb-install-db")), "--no-defaults", f"--datadir={self.folder}/data",
            "--auth-root-authentication-method=normal", f"--user={_user_or(self.user)}",
            _LOG_SIZE,
        ]  # fmt: skip

    def _serves(self) -> list[str]:
        return [
            str(_which(_MARIADBD)), "--no-defaults", f"--datadir={self.folder}/data",
            f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid", f"--user={_user_or(self.user)}",
            f"--general-log-file={self.folder}/log", "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M", _LOG_SIZE,
        ]  # fmt: skip

    def _read_only(self, yes: bool) -> list[str]:
        return [f"SET GLOBAL read_only = {int(yes)}"]  # root may write all the same

    @property
    def url(self) -> str:
        # else PyMySQL reads all certificates of the machine for each connection, for 25 ms
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/test?ssl_disabled=1"


_MARIADBD = "mariadbd"

#: From the beginning: each server would copy, and then make anew, the 96 MB that are the default.
_LOG_SIZE = "--innodb-log-file-size=16M"

KINDS: dict[str, type[OwnServer]] = {"postgresql": OwnPostgreSql, "mariadb": OwnMariaDb}


@contextmanager
def own_server(kind: str, **variables: str) -> Iterator[OwnServer]:
    """Run a server of *kind* for a block; needs its programs. variables: for its environment.

    What is committed in the block outlives the server: clients ask for nothing else."""
    made = KINDS[kind](**variables)
    asked_for = os.environ.pop(CLIENT_OPTIONS, None)
    try:
        made.make_as(_fresh(kind))
        made.start()
        yield made
    finally:
        if asked_for is not None:
            os.environ[CLIENT_OPTIONS] = asked_for
        made.remove()


class OwnServers:
    """One server of each kind that is asked for, for tests that come one after the other."""

    def __enter__(self) -> OwnServers:
        self._made: dict[str, OwnServer] = {}
        self._stack = ExitStack()
        return self

    def emptied(self, kind: str) -> OwnServer:
        """Return it as a new one: what it has got since it was made is a log, and users."""
        if kind in self._made:
            self._made[kind].empty()
        else:
            self._made[kind] = self._stack.enter_context(own_server(kind))
        return self._made[kind]

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


@functools.cache
def _fresh(kind: str) -> str:
    """Return the folder of one whose data was just made, by this process or another."""
    shared = os.environ.get(FOLDER)
    if shared is None:
        made = KINDS[kind]()
        atexit.register(made.remove)
        made.make()
        return str(made.folder)
    with open(f"{shared}/{kind}", "a+") as note:
        fcntl.flock(note, fcntl.LOCK_EX)  # others wait until it is made
        note.seek(0)
        found = note.read()
        if not found:
            made = KINDS[kind]()
            made.make()
            found = str(made.folder)
            note.write(found)
        return found


def _postgresql_programs() -> Path:
    found = _which("postgres")
    if found is not None:
        return found.parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    need(versions, "PostgreSQL's initdb and postgres (Debian: postgresql)")
    return versions[-1].parent


def _which(program: str) -> Path | None:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    return None if found is None else Path(found)


def _user_or(user: str) -> str:
    return user if os.geteuid() == 0 else getpass.getuser()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
