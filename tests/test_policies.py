"""What a task declares of limits, rates and owners: what is refused, and which key a job gets."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from backend_contract import DONE
from tgext.asyncjob import BadCall, ConfigError, JobQueue, shared, task
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import WorkerId
from tgext.asyncjob.keys import KEY_LENGTH, key_of, shortened
from tgext.asyncjob.policies import Keys, Limit, Policy, Rate
from tgext.asyncjob.sharing import Share, is_turn
from tgext.asyncjob.task import keys_for

HERE = f"{__name__}."


@task(limit=2)
def plain(*_args: Any) -> None: ...


@task(limit=1, limit_key=lambda account, **_: account)
def by_account(account: Any, *, size: int = 0) -> None: ...


@task(rate="10/60s", rate_key=shared("mailgun"), limit=3, limit_key=shared("mailgun"))
def mail(*_args: Any) -> None: ...


@task(limit=1, limit_key=shared("mailgun"))
def other_mail(*_args: Any) -> None: ...


ran: list[str] = []


@task(share_key=lambda owner: owner)
def shown_by_owner(owner: str) -> None:
    ran.append(owner)


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with JobQueue(threads=0) as made, made.as_current():
        yield made


def keys_of(queue: JobQueue, uid: str) -> Keys | None:
    found = queue.backend.get(uid)
    assert found is not None
    return found.job.keys


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "2", 10**9])
def test_limit_that_can_never_be_satisfied_is_refused_at_import(limit):
    with pytest.raises(ConfigError, match="limit: expected a whole number from 1 to"):
        task(limit=limit)(plain.func)


@pytest.mark.parametrize(
    "rate", ["0/1s", "10", "10/0s", "1/2d", "-1/s", "1/s ", "10/60", 10, "9999999/s", "1/60 s"]
)
def test_rate_that_can_never_be_satisfied_is_refused_at_import(rate):
    with pytest.raises(ConfigError, match=r'rate: expected .* as "10/60s".*, got'):
        task(rate=rate)(plain.func)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("10/60s", (10, 60.0)), ("100/h", (100, 3600.0)), ("5/1m", (5, 60.0)), ("1/250ms", (1, 0.25)),
     ("3/1d", (3, 86_400.0)), ("2/0.5s", (2, 0.5))],
)  # fmt: skip
def test_rate_is_starts_in_a_window(queue, rate, expected):
    job = plain.using(limit=None, rate=rate).enqueue()

    assert keys_of(queue, job.id) == Keys(rate=Rate(f"rate:{HERE}plain", *expected))


@pytest.mark.parametrize("option", ["limit", "rate"])
@pytest.mark.parametrize("key", ["", 5, ("a",)])
def test_key_that_is_none_is_refused_at_import(option, key):
    values: dict[str, Any] = {option: {"limit": 1, "rate": "1/s"}[option], f"{option}_key": key}
    with pytest.raises(ConfigError, match=f"{option}_key: expected a text, a callable"):
        task(**values)(plain.func)


@pytest.mark.parametrize("option", ["limit", "rate"])
def test_key_without_its_policy_is_refused_at_import(option):
    with pytest.raises(ConfigError, match=f"{option}_key: expected a {option} beside it"):
        task(**{f"{option}_key": "a"})(plain.func)


@pytest.mark.parametrize("values", [("",), ("x" * 65,), (5,), ("a", "b")])
def test_shared_key_that_is_none_is_refused(values):
    with pytest.raises(ConfigError, match="shared: expected a"):
        shared(*values)


def test_misspelt_policy_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="unknown option limit_kay; did you mean limit_key"):
        task(limit_kay="x")(plain.func)


def test_key_of_a_task_is_the_task_and_what_its_callable_makes_of_the_arguments(queue):
    assert keys_of(queue, plain.enqueue(1).id) == Keys(Limit(f"{HERE}plain", 2))
    acme = by_account.enqueue("acme", size=3)
    assert keys_of(queue, acme.id) == Keys(Limit(f"{HERE}by_account:acme", 1))


def test_shared_key_is_that_of_all_tasks_that_name_it(queue):
    assert keys_of(queue, mail.enqueue().id) == Keys(
        Limit("shared:mailgun", 3), Rate("rate:shared:mailgun", 10, 60.0)
    )
    assert keys_of(queue, other_mail.enqueue().id) == Keys(Limit("shared:mailgun", 1))


def test_shared_key_with_a_callable_has_one_for_each_text(queue):
    each = plain.using(limit_key=shared("tenant", lambda tenant: tenant))

    assert keys_of(queue, each.enqueue("a").id) == Keys(Limit("shared:tenant:a", 2))


@pytest.mark.parametrize("value", [5, None, b"acme"])
def test_callable_that_gives_no_text_is_refused_at_enqueue(queue, value):
    with pytest.raises(BadCall, match=r"limit_key: expected a text from .*, got .*; return str"):
        by_account.enqueue(value)
    assert queue.backend.waiting() == 0


def test_callable_that_raises_is_refused_at_enqueue_with_its_error(queue):
    broken = plain.using(limit_key=lambda account: account["id"])
    with pytest.raises(BadCall, match="it raised TypeError: 'int' object is not subscriptable"):
        broken.enqueue(5)


def test_one_of_many_calls_whose_key_cannot_be_made_is_named(queue):
    with pytest.raises(BadCall, match="call 2, and none is enqueued: limit_key: expected a text"):
        by_account.enqueue_many([("a",), (5,)])


def test_copy_of_a_task_has_its_policy_or_another(queue):
    assert plain.using(priority=5).policy == plain.policy
    assert plain.using(limit=None).policy is None
    assert keys_of(queue, plain.using(limit=7).enqueue().id) == Keys(Limit(f"{HERE}plain", 7))


def test_copy_of_a_task_without_a_policy_has_no_key_of_it_either():
    every = task(
        limit=1, limit_key=str, rate="1/s", rate_key=str, unique="waiting", unique_key=str
    )(plain.func)

    none = every.using(limit=None, rate=None, unique=None)
    assert none.policy is None
    assert every.using(rate=None).policy == Policy(
        limit=1, limit_key=str, unique="waiting", unique_key=str
    )
    coalesced = every.using(unique=None, coalesce=True)
    assert coalesced.policy.unique_key is str
    assert coalesced.using(coalesce=False).policy.unique_key is None
    with pytest.raises(ConfigError, match="limit_key: expected a limit beside it"):
        every.using(limit=None, limit_key=str)


def test_copy_of_a_task_with_a_policy_can_be_pickled():
    copy = pickle.loads(pickle.dumps(by_account.using(priority=5)))

    assert (copy.priority, copy.policy) == (5, by_account.policy)


def test_job_of_a_schedule_has_the_policy_of_its_task(queue):
    queue.schedule("hourly", by_account, ["acme"], every=timedelta(hours=1))
    [schedule] = queue.schedules()

    assert keys_of(queue, schedule.run_now().id) == Keys(Limit(f"{HERE}by_account:acme", 1))


def test_long_and_odd_keys_are_short_readable_and_different():
    texts = ["x" * 200, "x" * 201, "a\nb", "a b ", "a\0", "\ud800", "e~" + 32 * "0"]
    keys = [key_of("limit_key", text, "m.f", (), {}) for text in texts]

    assert len(set(keys)) == len(keys)
    assert all(len(key) <= KEY_LENGTH and key.isprintable() for key in keys)
    assert all(key.startswith("m.f:") for key in keys)
    assert shortened(keys[0]) != keys[0]  # a digest is never taken for a text


def test_jobs_of_a_task_with_a_limit_run_one_after_the_other(queue):
    for _ in range(3):
        by_account.enqueue("acme")
    ran = []
    while claims := queue.backend.claim(WorkerId("w"), None, 10):
        ran.append(len(claims))
        queue.backend.finish_many([(claim, DONE) for claim in claims])

    assert ran == [1, 1, 1]


@pytest.mark.parametrize("text", ["{", "[]", '{"limit": 5}', '{"limit": ["a"]}', "null", ""])
def test_policy_of_a_row_that_cannot_be_read_admits_the_job(text):
    assert Keys.of(text) in (None, Keys())


def share_of_job(queue: JobQueue, uid: str) -> Share | None:
    keys = keys_of(queue, uid)
    return None if keys is None else keys.share


def test_owner_is_of_a_queue_a_priority_and_what_the_key_gives(queue):
    owned = plain.using(limit=None, share_key=lambda name: name)

    assert share_of_job(queue, owned.enqueue("ann").id) == Share(
        "/:0:default", f"//:0:default/:{HERE}plain:ann"
    )
    urgent = owned.using(priority=5, queue_name="mail", share_key=shared("all"))
    assert share_of_job(queue, urgent.enqueue("ann").id) == Share(
        "/:-5:mail", "//:-5:mail/:shared:all"
    )
    assert share_of_job(queue, owned.using(share_key=None).enqueue("ann").id) is None


def test_owner_is_the_enqueuing_user_or_nobody():
    owned, call = plain.using(share_key=True), Call(plain.func, (), None)
    contexts = [{"user": "ann"}, {"user": None}, None, {"user": 5}]
    owners = [keys_for(call, owned, context).share.owner for context in contexts]

    assert owners == [f"//:0:default/:@{name}" for name in ("ann", "", "", "5")]


@pytest.mark.parametrize("key", ["", 5, ("a",), False])
def test_owner_that_is_none_is_refused_at_import(key):
    with pytest.raises(ConfigError, match=r"share_key: expected .*, got"):
        task(share_key=key)(plain.func)


@pytest.mark.parametrize("value", [5, None, b"acme"])
def test_callable_that_gives_no_owner_is_refused_at_enqueue(queue, value):
    with pytest.raises(BadCall, match=r"share_key: expected a text from .*, got"):
        plain.using(share_key=lambda name: name).enqueue(value)
    assert queue.backend.waiting() == 0


def test_long_owners_are_different_and_not_taken_for_turns(queue):
    owned = plain.using(share_key=lambda name: name)
    found = [share_of_job(queue, owned.enqueue("x" * number).id) for number in (300, 301)]

    assert len({share.owner for share in found}) == 2
    assert all(len(share.owner) <= KEY_LENGTH and not is_turn(share.owner) for share in found)
    assert is_turn(found[0].turn)


def test_keys_are_read_as_they_are_stored(queue):
    made = plain.using(rate="5/s", share_key=True, unique="waiting").enqueue()
    keys = keys_of(queue, made.id)

    assert Keys.of(keys.text) == keys
    assert None not in keys


def test_jobs_of_two_owners_run_in_turn(queue):
    for owner in "aaabb":
        shown_by_owner.enqueue(owner)
    ran.clear()
    queue.run_pending()

    assert "".join(ran) == "ababa"
