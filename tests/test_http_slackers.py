"""Chains on another server: HttpWorker and HttpHook, alone and in a TurboGears application."""

from __future__ import annotations

import asyncio
import math
import operator
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tg.controllers import WSGIAppController

import tgapps
from hook_server import served
from tgext.asyncjob import (
    BadSignature,
    CallRefused,
    ConfigError,
    JobQueue,
    NotSerializable,
    ServerUnreachable,
    asyncjob_perform,
    executors,
)
from tgext.asyncjob import slackers as adisp
from tgext.asyncjob.executors import HttpExecutor
from tgext.asyncjob.slackers import HttpHook, HttpWorker, Slacker

PATIENCE_SECONDS = 20.0

SECRET = "two servers know this"


class Counted:
    """A WSGI application that remembers the other ends of its connections, and its paths."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application
        self.connections: list[str] = []
        self.paths: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        self.connections.append(environ["REMOTE_PORT"])
        self.paths.append(environ["PATH_INFO"])
        return self.application(environ, start_response)


@pytest.fixture(scope="module")
def counted() -> Counted:
    return Counted(HttpHook(SECRET))


@pytest.fixture(scope="module")
def server(counted: Counted) -> Iterator[str]:
    with served(counted) as address:
        yield address


@pytest.fixture
def worker(server: str) -> Iterator[HttpWorker]:
    with HttpWorker(server, "/hook", secret=SECRET) as made:
        yield made


def result_of(postponed: Any) -> Any:
    return postponed.fetch().result(PATIENCE_SECONDS)


class Library:
    def __init__(self, *books: str) -> None:
        self.books = list(books)


def blame(what: str) -> None:
    raise LookupError(what)


def first_of(values: Any) -> Any:
    return values[0]


# -- what travels


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (Slacker(math).sqrt(16), 4.0),
        (Slacker(os.path).join("a", "b"), os.path.join("a", "b")),
        (Slacker(Library)("a", "b", "c").books[1:], ["b", "c"]),
        (Slacker(Library("a", "b")).books[0].upper(), "A"),
        (Slacker(operator.itemgetter(1))(["a", "b"]), "b"),
        (Slacker(first_of)({0: {"any": ({1, 2}, b"x")}}), {"any": ({1, 2}, b"x")}),
        (Slacker(dict).fromkeys([1, 2], 3), {1: 3, 2: 3}),
        (Slacker("text")[::-1], "txet"),
    ],
)
def test_chain_is_run_on_the_other_server(server, chain, expected):
    with HttpWorker(server, "/", secret=SECRET) as worker:
        assert chain.fetch(worker).result(PATIENCE_SECONDS) == expected


def test_module_can_be_an_argument(worker):
    assert result_of(Slacker(getattr, worker)(math, "pi")) == math.pi


def test_database_object_is_refused_before_it_travels(worker, database):
    with pytest.raises(NotSerializable, match="pass its id"):
        result_of(Slacker(first_of, worker)([database.Note(text="a")]))


def test_argument_that_cannot_be_pickled_is_refused_before_it_travels(worker, counted):
    before = len(counted.paths)

    with pytest.raises(NotSerializable, match="that can be pickled"):
        result_of(Slacker(first_of, worker)([threading.Lock()]))
    assert len(counted.paths) == before


def test_attribute_that_is_not_there_is_the_callers_error(worker):
    with pytest.raises(AttributeError, match="no_such"):
        result_of(Slacker(math, worker).no_such(1))


# -- who hears of it


def test_exception_of_the_other_server_is_raised_here_with_its_traceback(worker):
    with pytest.raises(LookupError, match="it") as caught:
        result_of(Slacker(blame, worker)("it"))

    assert "in blame" in str(caught.value.__cause__)


def test_chain_is_awaited(worker):
    async def program() -> Any:
        return await asyncio.gather(Slacker(math, worker).sqrt(4), Slacker(math, worker).sqrt(9))

    assert asyncio.run(program()) == [2, 3]


def test_chains_are_yielded_in_parallel(worker):
    meeting = Slacker(meet, worker)

    @adisp.process
    def program():
        return (yield meeting(), meeting())

    assert sorted(program().result(PATIENCE_SECONDS)) == [0, 1]


_barrier = threading.Barrier(2, timeout=PATIENCE_SECONDS)


def meet() -> int:
    return _barrier.wait()


def test_chain_on_another_server_is_awaited_inside_a_job(worker):
    async def job() -> Any:
        return await Slacker(math, worker).sqrt(16)

    with JobQueue(threads=0) as queue:
        uid = queue.perform(job)
        queue.run_pending()
        assert queue.result(uid).return_value == 4


# -- the connection


def test_connections_are_used_again(counted, server):
    counted.connections.clear()
    with HttpWorker(server, "hook", secret=SECRET, max_workers=1) as worker:
        for number in range(10):
            result_of(Slacker(math, worker).sqrt(number))

    assert len(counted.connections) == 10
    assert len(set(counted.connections)) == 1


@pytest.mark.parametrize(
    ("address", "path", "asked"),
    [
        ("{}", "/hook", "/hook"),
        ("{}", "hook", "/hook"),
        ("{}/", "", "/"),
        ("http://{}", "/hook/", "/hook/"),
        ("http://{}/site/", "/hook", "/site/hook"),
    ],
)
def test_server_is_an_address_with_or_without_its_scheme(counted, server, address, path, asked):
    with HttpWorker(address.format(server), path, secret=SECRET) as worker:
        result_of(Slacker(math, worker).sqrt(1))

    assert counted.paths[-1] == asked


@pytest.mark.parametrize("address", ["http://", "ftp://host", "host:port"])
def test_server_that_is_no_address_is_refused_at_once(address):
    with pytest.raises(ConfigError, match="expected a server"):
        HttpWorker(address, "/", secret=SECRET)


def test_secret_that_is_another_is_refused(server):
    with HttpWorker(server, "/", secret="a guess") as worker, pytest.raises(CallRefused) as caught:
        result_of(Slacker(math, worker).sqrt(1))

    assert caught.value.status == 401
    assert "signed with the secret of this server" in caught.value.reason


def test_server_that_is_not_there_is_unreachable_and_nothing_ran():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        HttpWorker(f"127.0.0.1:{port}", "/", secret=SECRET) as worker,
        pytest.raises(ServerUnreachable, match="it did not run"),
    ):
        result_of(Slacker(math, worker).sqrt(1))


def test_server_that_breaks_off_may_have_run_it():
    @contextmanager
    def closing() -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def accept() -> None:
                connection, _ = listening.accept()
                connection.recv(10)
                connection.close()

            thread = threading.Thread(target=accept)
            thread.start()
            yield f"127.0.0.1:{listening.getsockname()[1]}"
            thread.join()

    with (
        closing() as address,
        HttpWorker(address, "/", secret=SECRET) as worker,
        pytest.raises(ServerUnreachable, match="it may have run"),
    ):
        result_of(Slacker(math, worker).sqrt(1))


def test_server_that_takes_too_long_may_have_run_it(server, gate, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "the_gate", gate)
    with (
        HttpWorker(server, "/", secret=SECRET, timeout=0.05) as worker,
        pytest.raises(ServerUnreachable, match="it may have run"),
    ):
        result_of(Slacker(wait_at_the_gate, worker)())
    gate.open()


the_gate: Any = None


def wait_at_the_gate() -> None:
    the_gate.enter()


def answering(status: str, body: bytes, kind: str = "application/x-asyncjob-letter") -> Any:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["wsgi.input"].read()
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    return application


@pytest.mark.parametrize(
    ("application", "error"),
    [
        (answering("200 OK", b"hello"), BadSignature),
        (answering("200 OK", b"<html>", "text/html"), ServerUnreachable),
        (answering("502 Bad Gateway", b"<html>", "text/html"), ServerUnreachable),
        (answering("404 Not Found", b"no hook here", "text/plain"), CallRefused),
        (answering("302 Found", b"elsewhere", "text/plain"), CallRefused),
        (answering("200 OK", b"x" * 2_000), ServerUnreachable),
    ],
)
def test_answer_that_is_none_of_a_hook_is_an_error_and_not_opened(application, error):
    with (
        served(application) as address,
        HttpWorker(address, "/", secret=SECRET, max_bytes=1_000) as worker,
        pytest.raises(error),
    ):
        result_of(Slacker(math, worker).sqrt(1))


def test_what_needs_an_extra_that_is_missing_says_so_and_the_rest_runs():
    program = """
import sys
for name in ("urllib3", "itsdangerous", "django", "tornado"):
    sys.modules[name] = None
import math
from tgext.asyncjob import MissingExtra, executors, slackers
with slackers.ThreadWorker() as worker:
    print(slackers.Slacker(math, worker).sqrt(16).fetch().result())
for module, name in [(executors, "HttpExecutor"), (slackers, "HttpWorker"), (slackers, "HttpHook")]:
    try:
        getattr(module, name)
    except MissingExtra as error:
        print(error.extra)
"""

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout.split(), done.stderr) == (["4.0", "http", "http", "http"], "")


def test_what_stands_in_a_script_is_refused_before_it_travels(tmp_path):
    program = tmp_path / "script.py"
    program.write_text(
        "from tgext.asyncjob.slackers import HttpWorker, Slacker\n"
        "def f(*args): pass\n"
        "class C: x = 1\n"
        "with HttpWorker('127.0.0.1:1', '/', secret='s') as worker:\n"
        "    for chain in [Slacker(f)(), Slacker(C()).x, Slacker(int)(C)]:\n"
        "        error = chain.fetch(worker).exception()\n"
        "        print(type(error).__name__, 'the script that was started' in str(error))\n"
    )

    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr) == ("NotSerializable True\n" * 3, "")


@pytest.mark.parametrize("module", [executors, adisp])
def test_name_that_is_not_there_is_an_attribute_error(module):
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing


def test_server_in_another_process_is_killed_and_its_caller_hears_of_it(tmp_path):
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    running = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    try:
        address = running.stdout.readline().strip()
        with HttpWorker(address, "/", secret=SECRET) as worker:
            assert result_of(Slacker(os, worker).getpid()) == running.pid
            with pytest.raises(ServerUnreachable, match="it may have run"):
                result_of(Slacker(os, worker).kill(running.pid, 9))
    finally:
        running.kill()
        running.communicate()


SERVER = f"""
import waitress.server
from tgext.asyncjob.slackers import HttpHook
server = waitress.server.create_server(HttpHook({SECRET!r}), host="127.0.0.1", port=0)
print(f"127.0.0.1:{{server.effective_port}}", flush=True)
server.run()
"""


# -- in TurboGears


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tgapps.App]:
    """An application with the hook as a controller, and a session that its calls share."""
    root = tgapps.Root()
    root.hook = WSGIAppController(HttpHook(SECRET, allow=[__name__]))
    with tgapps.applications(tmp_path) as make:
        made = make(root, make_body_seekable=True)
        made.get()
        monkeypatch.setitem(globals(), "the_app", made)
        yield made


the_app: Any = None


def add_item(name: str, *, fails: bool = False) -> int:
    item_id = the_app.model.add(name)
    if fails:
        raise LookupError(name)
    return item_id


def count_items() -> int:
    return the_app.model.DBSession.query(the_app.model.Item).count()


def first_item() -> Any:
    return the_app.model.DBSession.query(the_app.model.Item).first()


def add_item_and_enqueue(name: str, *, fails: bool = False) -> str:
    uid = asyncjob_perform(add_item, f"{name} by a job")
    add_item(name, fails=fails)
    return uid


@pytest.fixture
def gears(app: tgapps.App) -> Iterator[HttpExecutor]:
    """A worker whose hook is a controller of the application."""
    with served(app.wsgi) as address, HttpWorker(address, "/hook/", secret=SECRET) as worker:
        yield worker


@pytest.fixture
def beside(app: tgapps.App) -> Iterator[HttpExecutor]:
    """A worker whose hook stands beside the application, in the same process."""
    with (
        served(HttpHook(SECRET)) as address,
        HttpWorker(address, "/", secret=SECRET) as worker,
    ):
        yield worker


@pytest.fixture(params=["gears", "beside"])
def worker_of_app(request: pytest.FixtureRequest) -> HttpExecutor:
    return request.getfixturevalue(request.param)


def test_call_in_turbogears_is_committed(app, worker_of_app):
    item_id = result_of(Slacker(add_item, worker_of_app)("a"))

    assert item_id == 1
    assert app.model.committed() == ["a"]


def test_call_in_turbogears_that_raises_is_rolled_back(app, worker_of_app):
    with pytest.raises(LookupError, match="a"):
        result_of(Slacker(add_item, worker_of_app)("a", fails=True))

    assert app.model.committed() == []


def test_each_call_in_turbogears_has_a_session_of_its_own(app, worker_of_app):
    with pytest.raises(LookupError):
        result_of(Slacker(add_item, worker_of_app)("a", fails=True))
    result_of(Slacker(add_item, worker_of_app)("b"))

    assert result_of(Slacker(count_items, worker_of_app)()) == 1
    assert app.model.engine.pool.checkedout() == 0


def test_job_that_a_call_enqueues_belongs_to_its_transaction(app, worker_of_app):
    uid = result_of(Slacker(add_item_and_enqueue, worker_of_app)("a"))
    with pytest.raises(LookupError):
        result_of(Slacker(add_item_and_enqueue, worker_of_app)("b", fails=True))

    assert app.ended(uid).status == "SUCCESSFUL"
    app.run_all()
    assert app.model.committed() == ["a", "a by a job"]


def test_attributes_of_a_database_object_are_fetched_where_its_session_is(app, worker_of_app):
    result_of(Slacker(add_item, worker_of_app)("a"))

    assert result_of(Slacker(first_item, worker_of_app)().name) == "a"


def test_call_that_is_not_allowed_is_refused_by_the_controller(gears):
    with pytest.raises(CallRefused) as caught:
        result_of(Slacker(os, gears).getpid())

    assert caught.value.status == 403


def test_application_serves_pages_after_all_of_that(app, gears):
    with pytest.raises(CallRefused):
        result_of(Slacker(os, gears).getpid())
    with pytest.raises(LookupError):
        result_of(Slacker(add_item, gears)("a", fails=True))

    assert app.get().status_int == 200
