"""The hook over a real HTTP server: what it refuses, unopened, and that it goes on afterwards."""

from __future__ import annotations

import http.client
import io
import json
import math
import multiprocessing
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clocks import FakeClock
from examples import examples
from hook_server import served
from tgext.asyncjob import BadSignature, ConfigError, JobQueue, NotSerializable
from tgext.asyncjob.errors import CallableMissing, ModuleMissing, Unreadable
from tgext.asyncjob.executors import HttpExecutor, HttpHook, seen_calls
from tgext.asyncjob.executors.chain import Chain
from tgext.asyncjob.executors.http_messages import CONTENT_TYPE, CallHead, read_answer, write_call
from tgext.asyncjob.serialization.signed_messages import SignedMessages, pickled

SECRET = "two servers know this"
CALLS, ANSWERS = SignedMessages(SECRET, "call"), SignedMessages(SECRET, "answer")

#: What was unpickled of the bodies that nobody should open.
opened: list[str] = []


def sing() -> str:
    opened.append("a body was opened")
    return "la"


class Canary:
    """Sings when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sing, ()


def nothing(*_args: Any) -> str:
    return "done"


def message(
    chain: Chain | None = None,
    *,
    secret: str = SECRET,
    at: float | None = None,
    number: str | None = None,
    kind: str = "call",
) -> bytes:
    """A call that would sing, were it opened."""
    return write_call(
        SignedMessages(secret, kind),
        chain or Chain(nothing).call((Canary(),), {}),
        number or secrets.token_hex(8),
        time.time() if at is None else at,
    )


class Client:
    """Posts bytes to a hook, as anybody can."""

    def __init__(self, address: str) -> None:
        self.address = address

    def post(self, body: bytes, method: str = "POST", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request(method, "/", body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def send(self, raw: bytes) -> bytes:
        """Send bytes as they are, and no more."""
        host, _, port = self.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer

    def goes_on(self) -> bool:
        """Whether a call that is right is made."""
        number = secrets.token_hex(8)
        status, body = self.post(message(Chain(math).get("sqrt").call((16,), {}), number=number))
        return status == 200 and read_answer(ANSWERS, body, number) == 4


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, also for its processes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def kept(folder: Path) -> int:
    """How many calls are known to have been made."""
    return sum(path.is_file() for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    hook = HttpHook(SECRET, allow=["math", "test_http_hook"], max_bytes=10_000)
    with served(hook) as address:
        yield Client(address)


@pytest.fixture(autouse=True)
def _no_canary_sings() -> Iterator[None]:
    opened.clear()
    yield
    assert opened == []


# -- what is refused


def test_canary_sings_in_a_body_that_is_right(client):
    status, _ = client.post(message())

    assert (status, opened) == (200, ["a body was opened"])
    opened.clear()


#: Fresh for a hook whose clock stands at 0.
GOOD = message(at=0.0)


def signed(name: str, path: str | None, *, at: float | None = None) -> bytes:
    """A call of something that need not be there; its body would sing."""
    head = CallHead(time.time() if at is None else at, secrets.token_hex(8), name, path, [])
    return CALLS.write(head._asdict(), pickled((Canary(), ()), what="a call"))


#: Made when they are sent: they are fresh then.
REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "empty": (lambda: b"", 401),
    "garbage": (lambda: os.urandom(300), 401),
    "text": (lambda: b"hello", 401),
    "unsigned": (lambda: message().partition(b".")[2], 401),
    "unsigned pickle": (lambda: pickled(Canary(), what="a canary"), 401),
    "signature of another secret": (lambda: message(secret="a guess"), 401),
    "signature of another kind": (lambda: message(kind="answer"), 401),
    "cut off": (lambda: message()[:-1], 401),
    "longer": (lambda: message() + b"\n", 401),
    "changed": (lambda: message().replace(b"nothing", b"nothinx"), 401),
    "stale": (lambda: message(at=time.time() - 3600), 401),
    "of the future": (lambda: message(at=time.time() + 3600), 401),
    "of no time": (lambda: message(at=math.nan), 401),
    "of the end of time": (lambda: message(at=math.inf), 401),
    "not allowed": (lambda: message(Chain(os).get("system").call((Canary(),), {})), 403),
    "not allowed, though its name begins alike": (
        lambda: signed("mathematics.f", "mathematics:f"),
        403,
    ),
    "not allowed, with its object in the body": (lambda: signed("elsewhere.Class", None), 403),
    "with a path that is not its name": (lambda: signed("math.sqrt", "os:system"), 400),
    "oversized": (lambda: message(Chain(nothing).call((Canary(), b"x" * 20_000), {})), 413),
    "head that is a list": (lambda: CALLS.write([], b""), 400),
    "head without parts": (lambda: CALLS.write({"at": time.time()}, b""), 400),
}


@pytest.mark.parametrize(("made", "status"), REFUSED.values(), ids=REFUSED)
def test_body_is_refused_unopened_and_the_server_goes_on(client, made, status):
    answered, reason = client.post(made())

    assert answered == status
    assert reason.startswith(b"expected")
    assert client.goes_on()


def test_call_that_was_made_is_refused_when_it_comes_again(client):
    again = message(Chain(math).get("sqrt").call((16,), {}))
    assert client.post(again)[0] == 200

    status, reason = client.post(again)

    assert (status, b"was made before" in reason) == (409, True)
    assert client.goes_on()


def test_call_comes_again_at_the_same_time_and_is_made_once():
    calls, meeting = [], threading.Barrier(8, timeout=10)
    hook = HttpHook(SECRET, scope=lambda: counted(calls))
    again = message(Chain(math).get("sqrt").call((16,), {}))

    def post() -> int:
        meeting.wait()
        return answer_of(hook, again)[0]

    statuses = in_threads(post, 8)

    assert sorted(statuses) == [200] + [409] * 7
    assert len(calls) == 1


def test_number_of_a_call_is_forgotten_when_the_call_would_be_stale():
    clock = FakeClock()
    hook = HttpHook(SECRET, max_age=30, clock=clock)
    first = message(Chain(math).get("sqrt").call((16,), {}), at=clock())
    assert answer_of(hook, first)[0] == 200

    clock.advance(30)
    assert answer_of(hook, first)[0] == 409
    clock.advance(1)
    assert answer_of(hook, first)[0] == 401
    assert answer_of(hook, message(Chain(math).get("pi"), at=clock()))[0] == 200


def test_numbers_of_calls_are_removed_when_no_hook_could_take_them_any_more(temporary):
    clock = FakeClock()
    hook = HttpHook(SECRET, max_age=30, clock=clock)
    for _ in range(5):
        assert answer_of(hook, message(Chain(math).get("pi"), at=clock()))[0] == 200
    assert kept(temporary) == 5

    clock.advance(seen_calls.KEEP_SECONDS + 2 * seen_calls.FOLDER_SECONDS)
    assert answer_of(hook, message(Chain(math).get("pi"), at=clock()))[0] == 200

    assert kept(temporary) == 1


def test_call_of_a_clock_that_is_ahead_is_refused_again_for_as_long_as_it_is_fresh():
    clock = FakeClock()
    hook = HttpHook(SECRET, max_age=30, clock=clock)
    ahead = message(Chain(math).get("pi"), at=clock.seconds + 29)
    assert answer_of(hook, ahead)[0] == 200

    clock.advance(58)

    assert answer_of(hook, ahead)[0] == 409


def test_clock_that_is_set_back_makes_no_call_fresh_again():
    clock = FakeClock()
    hook = HttpHook(SECRET, max_age=30, clock=clock)
    first = message(Chain(math).get("pi"), at=clock())
    assert answer_of(hook, first)[0] == 200

    clock.advance(seen_calls.KEEP_SECONDS - 60)
    assert answer_of(hook, message(Chain(math).get("pi"), at=clock()))[0] == 200
    clock.advance(60 - seen_calls.KEEP_SECONDS)

    assert answer_of(hook, first)[0] == 409


def test_refused_calls_take_no_room(temporary):
    hook = HttpHook(SECRET, allow=["json"])

    for _ in range(20):
        answer_of(hook, message())
        answer_of(hook, message(secret="a guess"))

    assert kept(temporary) == 0


def test_call_is_made_once_by_all_hooks_of_one_secret():
    hooks = [HttpHook(SECRET), HttpHook(SECRET), HttpHook(SECRET, max_age=300, allow=["math"])]
    again = message(Chain(math).get("pi"))

    assert [answer_of(hook, again)[0] for hook in hooks] == [200, 409, 409]


def test_hooks_of_different_secrets_know_nothing_of_each_other():
    number = secrets.token_hex(8)
    one = message(Chain(math).get("pi"), number=number)
    other = message(Chain(math).get("pi"), number=number, secret="another")

    assert answer_of(HttpHook(SECRET), one)[0] == 200
    assert answer_of(HttpHook("another"), other)[0] == 200


def answer_in_process(text: bytes) -> int:
    return answer_of(HttpHook(SECRET), text)[0].value


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_call_is_made_once_by_several_processes(method):
    again = message(Chain(math).get("pi"))
    context = multiprocessing.get_context(method)

    with ProcessPoolExecutor(3, context) as pool:
        statuses = list(pool.map(answer_in_process, [again] * 12))

    assert sorted(statuses) == [200] + [409] * 11


@pytest.mark.slow
def test_call_is_not_made_again_after_a_restart():
    again = message(Chain(math).get("pi"))
    context = multiprocessing.get_context("spawn")

    statuses = []
    for _ in range(2):
        with ProcessPoolExecutor(1, context) as pool:
            statuses.append(pool.submit(answer_in_process, again).result())

    assert statuses == [200, 409]


def test_claim_decides_whether_a_call_is_new(temporary):
    clock, asked = FakeClock(), []

    def claim(number: str, seconds: float) -> bool:
        asked.append((number, seconds))
        return len(asked) == 1

    again = message(Chain(math).get("pi"), at=clock() - 10, number="a1")
    hooks = [HttpHook(SECRET, claim=claim, clock=clock) for _ in range(2)]

    assert [answer_of(hook, again)[0] for hook in hooks] == [200, 409]
    assert asked == [("a1", 20.0)] * 2
    assert kept(temporary) == 0


@pytest.mark.parametrize(
    "number", ["../../../escaped", "/etc/passwd", "a\0b", "\ud800", "x" * 5000, ""]
)
def test_number_of_any_kind_is_kept_inside_the_folder(number, temporary):
    again = message(Chain(math).get("pi"), number=number)
    again = again if number else CALLS.write(head_without_number(), pickled((None, ()), what="x"))

    assert [answer_of(HttpHook(SECRET), again)[0] for _ in range(2)] == [200, 409]
    assert kept(temporary) == 1


def head_without_number() -> dict[str, Any]:
    return CallHead(time.time(), "", "math.pi", "math:pi", [])._asdict() | {
        "name": "math",
        "path": "math:",
        "attributes": ["pi"],
    }


def test_folder_that_others_can_write_is_not_trusted_and_no_call_is_made(temporary):
    folder = temporary / f"asyncjob-{os.geteuid()}"
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)

    status, reason = answer_of(HttpHook(SECRET), message())

    assert (status, b"the call did not run" in reason) == (503, True)


def test_link_to_a_folder_of_ones_own_is_not_trusted(temporary, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (temporary / f"asyncjob-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")

    assert answer_of(HttpHook(SECRET), message())[0] == 503


def test_no_call_is_made_where_nothing_can_be_kept(temporary, monkeypatch):
    hook = HttpHook(SECRET)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "is" / "not" / "there"))

    assert answer_of(hook, message())[0] == 503


def test_folder_that_a_cleaner_has_removed_is_made_again(temporary):
    hook = HttpHook(SECRET)
    assert answer_of(hook, message(Chain(math).get("pi")))[0] == 200
    shutil.rmtree(temporary / f"asyncjob-{os.geteuid()}")

    assert answer_of(hook, message(Chain(math).get("pi")))[0] == 200


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "30", None, True])
@pytest.mark.parametrize("name", ["max_age", "max_bytes"])
def test_bound_of_a_hook_that_is_none_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name}: expected a number above 0"):
        HttpHook(SECRET, **{name: value})


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "30", True])
@pytest.mark.parametrize("name", ["timeout", "max_workers", "max_bytes"])
def test_bound_of_an_http_executor_that_is_none_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name}: expected a number above 0"):
        HttpExecutor("localhost", "/", SECRET, **{name: value})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_a_post_is_served(client, method):
    status, _ = client.post(message(), method)

    assert status == 405
    assert client.goes_on()


@pytest.mark.parametrize("length", [None, ""])
def test_body_without_its_length_is_refused(length):
    assert HttpHook(SECRET).answer("POST", length, io.BytesIO(message()).read)[0] == 411


def test_connection_that_breaks_off_in_the_body_harms_nobody(client):
    text = message()
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n".encode()

    client.send(head + text[: len(text) // 2])

    assert client.goes_on()


@pytest.mark.parametrize("length", ["-1", "1e3", "ten", " 5", "٣", "0x10", "+5"])
def test_length_that_is_no_number_is_refused(length):
    assert HttpHook(SECRET).answer("POST", length, io.BytesIO(message()).read)[0] == 400


@pytest.mark.parametrize("length", ["1048577", "9" * 30, "9" * 5000])
def test_body_that_is_announced_as_too_long_is_not_even_read(length):
    def read(_size: int) -> bytes:
        raise AssertionError("it was read")

    assert HttpHook(SECRET).answer("POST", length, read)[0] == 413


def test_body_that_ends_early_is_refused():
    text = message()

    status, _, reason = HttpHook(SECRET).answer("POST", str(len(text) + 1), io.BytesIO(text).read)

    assert (status, b"broke off" in reason) == (400, True)


def test_body_that_cannot_be_read_is_refused():
    def read(_size: int) -> bytes:
        raise OSError("reset")

    assert HttpHook(SECRET).answer("POST", "10", read)[0] == 400


# -- fuzz

FUZZ = settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(body=st.binary(max_size=300))
def test_bytes_of_all_kinds_are_refused_unopened(client, body):
    status, _ = client.post(body)

    assert 400 <= status < 500
    assert opened == []


@FUZZ
@given(at=st.integers(0, 199), cut=st.integers(0, 3), put=st.binary(max_size=3))
def test_letters_that_were_changed_anywhere_are_refused_unopened(at, cut, put):
    hook = HttpHook(SECRET, clock=lambda: 0.0)
    changed = GOOD[:at] + put + GOOD[at + cut :]
    assume(changed != GOOD)

    status, _ = answer_of(hook, changed)

    assert 400 <= status < 500
    assert opened == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@FUZZ
@given(head=st.dictionaries(st.sampled_from(CallHead._fields), JSON), good=st.booleans())
def test_signed_heads_of_all_kinds_are_refused_unopened(client, head, good):
    right = {"at": time.time(), "number": secrets.token_hex(8), "path": None, "attributes": []}
    body = CALLS.write({**right, **head} if good else head, pickled(Canary(), what="a canary"))

    status, _ = client.post(body)

    assert 400 <= status < 500
    assert opened == []


def test_target_whose_name_is_no_text_is_refused(client):
    assert client.post(signed("math\n\ud800", "math\n\ud800:"))[0] == 403


def test_server_goes_on_after_all_of_it(client):
    assert client.goes_on()


def test_signed_text_that_is_no_letter_is_refused(client):
    for content in [b"", b"\n", b"[" * 5_000, b"\xff\n", b"null\n", b'"x"\n', b"{}\n"]:
        text = CALLS._signer.sign(content) + b"." + content

        assert client.post(text)[0] == 400


# -- the allow-list


def test_without_a_list_everything_may_be_called():
    assert answer_of(HttpHook(SECRET), message(Chain(json).get("dumps").call((1,), {})))[0] == 200


@pytest.mark.parametrize(
    ("allow", "status"),
    [
        (["os.path.join"], 403),  # its own name is posixpath
        (["posixpath"], 200),
        (["posixpath.join"], 200),
        ("posixpath.join", 200),
        (["posixpath.joi"], 403),
        (["posixpath.join.more"], 403),
        (["join"], 403),
        ([""], 403),
        ([], 403),
    ],
)
def test_list_has_names_or_their_first_components(allow, status):
    call = message(Chain(os.path).get("join").call(("a", "b"), {}))

    assert answer_of(HttpHook(SECRET, allow=allow), call)[0] == status


def test_way_to_a_target_does_not_lead_out_of_what_is_allowed():
    call = message(Chain(json).get("codecs").get("encode").call((Canary(),), {}))

    status, reason = answer_of(HttpHook(SECRET, allow=["json"]), call)

    assert status == HTTPStatus.FORBIDDEN
    assert b"the module codecs" in reason


def test_way_to_a_target_may_lead_over_modules_that_are_allowed():
    number = "a"
    call = message(
        Chain(json).get("decoder").get("JSONDecoder").call((), {}).get("strict"), number=number
    )

    status, body = answer_of(HttpHook(SECRET, allow=["json"]), call)

    assert (status, read_answer(ANSWERS, body, number)) == (200, True)


def test_instance_is_known_by_its_class():
    call = message(Chain(Shown()).get("text"))

    assert answer_of(HttpHook(SECRET, allow=["test_http_hook.Shown"]), call)[0] == 200
    call = message(Chain(Shown()).get("text"))
    assert answer_of(HttpHook(SECRET, allow=["test_http_hook.Hidden"]), call)[0] == 403


def test_object_that_is_another_than_its_head_says_is_not_called():
    head = CallHead(time.time(), "a", "test_http_hook.Allowed", None, ["text"])
    body = pickled((Shown(), ()), what="a call")

    status, reason = answer_of(
        HttpHook(SECRET, allow=["test_http_hook.Allowed"]), CALLS.write(head._asdict(), body)
    )

    assert status == HTTPStatus.FORBIDDEN
    assert b"which is called" in reason


class Shown:
    text = "shown"


# -- what is answered


def test_answer_is_to_one_call_only():
    _, body = answer_of(HttpHook(SECRET), message(Chain(math).get("pi"), number="a"))

    assert read_answer(ANSWERS, body, "a") == math.pi
    with pytest.raises(BadSignature, match="to another"):
        read_answer(ANSWERS, body, "b")


def test_call_is_no_answer():
    with pytest.raises(BadSignature):
        read_answer(ANSWERS, message(number="a"), "a")


@pytest.mark.parametrize(
    ("path", "error"),
    [("test_http_hook:Missing", CallableMissing), ("no_such_module:f", ModuleMissing)],
)
def test_target_that_is_not_here_is_an_error_for_the_caller(path, error):
    head = CallHead(time.time(), "a", path.replace(":", "."), path, [])
    body = pickled((None, (("call", (Canary(),), {}),)), what="a call")

    _, answer = answer_of(HttpHook(SECRET), CALLS.write(head._asdict(), body))

    with pytest.raises(error):
        read_answer(ANSWERS, answer, "a")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda body: body.replace(b"Shown", b"Shawn"), CallableMissing),
        (lambda body: body.replace(b"test_http_hook", b"test_http_hood"), CallableMissing),
        (lambda body: body[:-4], Unreadable),
        (lambda body: b"", Unreadable),
        (lambda body: pickled(7, what="no call"), TypeError),
    ],
)
def test_body_that_cannot_be_opened_is_an_error_for_the_caller(change, error):
    head = CallHead(time.time(), "a", "math.sqrt", "math:sqrt", [])
    body = change(pickled((None, (("call", (Shown(),), {}),)), what="a call"))

    _, answer = answer_of(HttpHook(SECRET), CALLS.write(head._asdict(), body))

    with pytest.raises(error):
        read_answer(ANSWERS, answer, "a")


def test_interruption_from_the_keyboard_is_the_servers():
    with pytest.raises(KeyboardInterrupt):
        answer_of(HttpHook(SECRET), message(Chain(interrupt).call((), {})))


def interrupt() -> None:
    raise KeyboardInterrupt


def test_result_that_cannot_be_pickled_is_an_error_for_the_caller():
    _, body = answer_of(HttpHook(SECRET), message(Chain(generator).call((), {}), number="a"))

    with pytest.raises(NotSerializable, match="a result that can be pickled"):
        read_answer(ANSWERS, body, "a")


def generator() -> Iterator[int]:
    yield 1


def test_call_is_made_inside_the_scope_and_its_result_written_there():
    events: list[Any] = []

    @contextmanager
    def scope() -> Iterator[None]:
        events.append("begin")
        try:
            yield
        except ZeroDivisionError:
            events.append("abort")
            raise
        events.append("commit")

    hook = HttpHook(SECRET, scope=scope)
    answer_of(hook, message(Chain(divide).call((1, 1), {})))
    answer_of(hook, message(Chain(divide).call((1, 0), {})))

    assert events == ["begin", "commit", "begin", "abort"]


def divide(a: int, b: int) -> float:
    return a / b


def test_commit_that_fails_is_what_the_caller_hears_of():
    @contextmanager
    def scope() -> Iterator[None]:
        yield
        raise RuntimeError("no commit")

    _, body = answer_of(HttpHook(SECRET, scope=scope), message(Chain(math).get("pi"), number="a"))

    with pytest.raises(RuntimeError, match="no commit"):
        read_answer(ANSWERS, body, "a")


def test_scope_is_that_of_the_only_job_queue_of_the_process(database, monkeypatch):
    monkeypatch.setitem(globals(), "current_database", database)
    with JobQueue(threads=0, session=database.Session):
        hook = HttpHook(SECRET)
        answer_of(hook, message(Chain(add_note).call(("kept",), {})))
        answer_of(hook, message(Chain(add_note).call(("lost", True), {})))

    assert database.texts() == ["kept"]


current_database: Any = None


def add_note(text: str, fails: bool = False) -> None:
    current_database.add(text)
    if fails:
        raise LookupError


@pytest.mark.parametrize("secret", ["", "  ", None, 7])
def test_hook_without_a_secret_is_refused(secret):
    with pytest.raises(ConfigError, match="secret"):
        HttpHook(secret)


def answer_of(hook: HttpHook, body: bytes) -> tuple[int, bytes]:
    status, kind, text = hook.answer("POST", str(len(body)), io.BytesIO(body).read)
    assert (kind == CONTENT_TYPE) == (status == 200)
    return status, text


def in_threads(function: Callable[[], Any], number: int) -> list[Any]:
    with ThreadPoolExecutor(number) as pool:
        return [future.result(10) for future in [pool.submit(function) for _ in range(number)]]


@contextmanager
def counted(calls: list[int]) -> Iterator[None]:
    calls.append(1)
    yield
