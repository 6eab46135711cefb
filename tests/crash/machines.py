"""Several machines, simulated by namespaces of the kernel: one is cut off, and comes back.

    PYTHONPATH=tests python -m crash.machines        as root; needs ip netns and unshare

    asyncjob-db     database and broker
    asyncjob-m1..3  a Celery worker each, in namespaces of network, processes and host name

The second machine is cut off while it runs jobs. They must run elsewhere within the lease; when it
is back, what it has done meanwhile must not count, and it must run jobs again.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, select

from celery_fleet import OPTIONS_VARIABLE, TESTS
from own_servers import OwnPostgreSql
from tgext.asyncjob import JobQueue

DB, MACHINES = "asyncjob-db", ("asyncjob-m1", "asyncjob-m2", "asyncjob-m3")
BRIDGE, NETWORK = "asyncjob0", "10.177.77"
ADDRESS_OF_DB = f"{NETWORK}.10"

LEASE_SECONDS = 4.0

#: Seconds beyond the lease in which a job of a silent machine must run again: two rounds of rescue,
#: and the relay.
ROUNDS_SECONDS = 6.0

PATIENCE_SECONDS = 60.0


def run(*words: str) -> None:
    """Run a command as root."""
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextmanager
def network() -> Iterator[None]:
    """Make the namespaces, joined by a bridge, with this one at its end."""
    names = (DB, *MACHINES)
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(names, 10):
            link = f"asyncjob-v{number}"
            run("ip", "netns", "add", name)
            run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", link, "master", BRIDGE, "up")
            inside = ("ip", "netns", "exec", name, "ip")
            run(*inside, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                run("ip", "netns", "del", name)
        with suppress(subprocess.CalledProcessError):
            run("ip", "link", "del", BRIDGE)


def connect(machine: str, yes: bool) -> None:
    """Plug a machine in, or pull its plug."""
    link = f"asyncjob-v{11 + MACHINES.index(machine)}"
    run("ip", "link", "set", link, "up" if yes else "down")


class DistantPostgreSql(OwnPostgreSql):
    """A server on the machine of the database."""

    def _serves(self) -> list[str]:
        owner = pwd.getpwnam(self.user)
        here = super()._serves()
        said = ["-c", f"listen_addresses={ADDRESS_OF_DB}"]
        return ["ip", "netns", "exec", DB, "setpriv", f"--reuid={owner.pw_uid}",
                f"--regid={owner.pw_gid}", "--clear-groups", *here, *said]  # fmt: skip

    def start(self) -> None:
        with open(self.folder / "data" / "pg_hba.conf", "a") as file:
            file.write(f"host all all {NETWORK}.0/24 trust\n")
        self._as = {}
        super().start()

    @property
    def url(self) -> str:
        return (
            f"postgresql+psycopg://postgres@{ADDRESS_OF_DB}:{self.port}/postgres?connect_timeout=3"
        )


@contextmanager
def redis() -> Iterator[str]:
    """Run a Redis on the machine of the database; give its URL."""
    folder = tempfile.mkdtemp(prefix="asyncjob-redis-")
    process = subprocess.Popen(
        ["ip", "netns", "exec", DB, "redis-server", "--bind", ADDRESS_OF_DB, "--protected-mode",
         "no", "--save", "", "--dir", folder], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"redis://{ADDRESS_OF_DB}:6379/0"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@contextmanager
def worker(machine: str, options: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Run a Celery worker on a machine; give its log."""
    celery = [sys.executable, "-m", "tgext.asyncjob", "celery", "--app", "celery_fleet:made_queue",
              "--", "worker", "-c", "2", "-l", "info", "--without-mingle", "--without-gossip",
              "-n", f"{machine}@%h"]  # fmt: skip
    named = f"hostname {machine} && exec " + " ".join(celery)
    command = ["ip", "netns", "exec", machine, "unshare", "--pid", "--fork", "--kill-child",
               "--mount-proc", "--uts", "sh", "-c", named]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
                   OPTIONS_VARIABLE: json.dumps(options)}  # fmt: skip
    log = folder / f"{machine}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=TESTS, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"expected {what}")
        time.sleep(0.05)
    return found


class Scene:
    """The machines at work. host_of: which machine runs a job."""

    def __init__(self, url: str, broker: str, folder: Path) -> None:
        from sqlqueues import PREFIX, Base, effects

        self.options = {
            "url": url, "secret": "swordfish", "table_prefix": PREFIX, "engine": "celery",
            "broker_url": broker, "lease": LEASE_SECONDS, "drain_timeout": 2,
        }  # fmt: skip
        self.engine = create_engine(url)
        self.effects = effects
        Base.metadata.create_all(self.engine)
        self.folder = folder
        self.queue = JobQueue("sql", **self.options)

    def host_of(self, uid: str) -> str | None:
        overview = self.queue.backend.overview  # type: ignore[attr-defined]
        hosts = {each.worker_id: each.host for each in overview.workers()}
        return next(
            (hosts.get(each.worker_id or "") for each in overview.running() if each.uid == uid),
            None,
        )

    def written(self) -> list[str]:
        with self.engine.connect() as connection:
            return sorted(connection.execute(select(self.effects.c.text)).scalars())


def play(scene: Scene) -> list[str]:
    """Do it; return what is wrong."""
    from sqlqueues import write_one
    from worker_contract import write_slowly

    wrong, cut = [], MACHINES[1]
    names = [f"long {number}" for number in range(6)]
    uids = [scene.queue.perform(write_slowly, name, 12.0) for name in names]
    hosts = until(
        lambda: all(found := [scene.host_of(uid) for uid in uids]) and found, "six running jobs"
    )
    held = [uid for uid, host in zip(uids, hosts, strict=True) if host == cut]
    say(f"six jobs run: {', '.join(hosts)}")
    connect(cut, False)
    cut_at = time.monotonic()
    # The two others have all their children busy until their own jobs have ended.
    until(lambda: all(scene.queue.result(uid).status == "SUCCESSFUL" or scene.host_of(uid) != cut
                      for uid in held), "a rescue")  # fmt: skip
    seconds = time.monotonic() - cut_at
    say(f"{cut} was cut off; its {len(held)} jobs were taken from it after {seconds:.1f} s, with a "
        f"lease of {LEASE_SECONDS:g} s")  # fmt: skip
    if seconds > LEASE_SECONDS + ROUNDS_SECONDS:
        wrong.append("too late")
    for uid in uids:
        scene.queue.result(uid).wait(PATIENCE_SECONDS)
    connect(cut, True)
    say(f"{cut} is back")
    short = [f"short {number:03}" for number in range(300)]
    for name in short:
        scene.queue.perform(write_one, name)
    until(lambda: len(scene.written()) >= len(names) + len(short), "all effects")
    back = scene.queue.perform(write_slowly, "back", 1.0)
    seen: set[str | None] = set()
    until(lambda: _joins(scene, seen, cut), f"a job on {cut}")
    scene.queue.result(back).wait(PATIENCE_SECONDS)
    written = [name for name in scene.written() if not name.startswith("again")]
    expected = sorted([*names, *short, "back"])
    lost = len(set(expected) - set(written))
    doubled = len(written) - len(set(written))
    say(f"{len(expected)} jobs: lost {lost}, doubled {doubled}")
    return [*wrong, *(["lost"] if lost else []), *(["doubled"] if doubled else [])]


def _joins(scene: Scene, seen: set[str | None], machine: str) -> bool:
    """Whether a machine runs jobs again."""
    from worker_contract import write_slowly

    uids = [scene.queue.perform(write_slowly, "again", 1.0) for _ in range(6)]
    until(lambda: any(scene.host_of(uid) for uid in uids), "a running job")
    seen.update(scene.host_of(uid) for uid in uids)
    for uid in uids:
        scene.queue.result(uid).wait(PATIENCE_SECONDS)
    return machine in seen


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Return the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="asyncjob-machines-"))
    with ExitStack() as stack:
        stack.enter_context(network())
        server = DistantPostgreSql()
        stack.callback(server.remove)
        server.make()
        server.start()
        broker = stack.enter_context(redis())
        scene = Scene(server.url, broker, folder)
        for machine in MACHINES:
            stack.enter_context(worker(machine, scene.options, folder))
        workers = scene.queue.backend.overview.workers  # type: ignore[attr-defined]
        until(lambda: len(workers()) == 2 * len(MACHINES), "all workers")
        wrong = play(scene)
        scene.queue.close()
        scene.engine.dispose()
    if wrong:
        say(f"wrong: {', '.join(wrong)}; logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
