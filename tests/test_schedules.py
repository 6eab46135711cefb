"""What ``backends/schedules.py`` promises, on each backend, by clocks that are handed in."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import transaction
from sqlalchemy import create_engine, delete, event, select, update

from clocks import FakeClock
from databases import url_of
from examples import examples
from schedule_jobs import declared, limited, mail, with_context, work
from sqlqueues import options_of, session_of
from tgext.asyncjob import BadCall, ConfigError, JobQueue, NotSerializable, task
from tgext.asyncjob.backends.audit import Act
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.backends.schedules import STALE_SECONDS, NewSchedule
from tgext.asyncjob.backends.sql import SqlBackend
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import READY, WorkerId
from tgext.asyncjob.policies import Limit
from tgext.asyncjob.recurrence import Recurrence
from tgext.asyncjob.task_options import DEFAULT_OPTIONS

DATABASES = ("sqlite", "postgresql", "mariadb")

#: A Wednesday: 2026-03-04 12:00:00 UTC.
NOON = datetime(2026, 3, 4, 12, tzinfo=timezone.utc).timestamp()

FIVE_MINUTES = Recurrence(cron="*/5 * * * *")


def a_schedule(recurrence: Recurrence = FIVE_MINUTES, *args: Any, **values: Any) -> NewSchedule:
    made = NewSchedule("five", Call(work, args, None), DEFAULT_OPTIONS, recurrence, False)
    return made._replace(**values)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


class Place:
    """A store of schedules. ``backend`` makes one more, as another process has it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.clock = FakeClock(NOON)
        self._memory = MemoryBackend(clock=self.clock) if kind == "memory" else None
        self._open: list[Any] = []
        if self._memory is None:
            url = url_of(kind, folder)
            self.engine = create_engine(url, **options_of(url))
            self.prefix = f"s{uuid.uuid4().hex[:8]}_"
            self.tables = self.backend().tables
            self._first, self._open = self._open[0], []

    def backend(self, clock: Callable[[], float] | None = None, **options: Any) -> Any:
        if self._memory is not None:
            return self._memory
        made = SqlBackend(
            self.engine,
            prefix=self.prefix,
            clock=clock or self.clock,
            **{"secret": "swordfish", **options},
        )
        made.open(create_tables=True)
        self._open.append(made)
        return made

    def queue(self) -> JobQueue:
        if self._memory is not None:
            made = JobQueue(self._memory, threads=0)
        else:
            options: dict[str, Any] = {"table_prefix": self.prefix, "threads": 0}
            made = JobQueue("sql", session_of(self.engine), **options)
            made.backend.close()
            made._database._backend = self._open.pop() if self.backend() else None
        self._open.append(made)
        return made

    def empty(self) -> None:
        for each in self._open:
            each.close()
        self._open.clear()
        self.clock.seconds = NOON
        if self._memory is not None:
            self._memory.after_fork()
            return
        with self.engine.begin() as connection:
            for table in (self.tables.jobs, self.tables.schedules, self.tables.ticks):
                connection.execute(delete(table))

    def drop(self) -> None:
        self.empty()
        if self._memory is None:
            self._first.close()
            self.tables.metadata.drop_all(self.engine)
            self.engine.dispose()


@pytest.fixture(scope="module")
def places(tmp_path_factory: Any) -> Iterator[Callable[[str], Place]]:
    made: dict[str, Place] = {}

    def place_of(kind: str) -> Place:
        if kind not in made:
            made[kind] = Place(kind, tmp_path_factory.mktemp("schedules"))
        return made[kind]

    yield place_of
    for each in made.values():
        each.drop()


@pytest.fixture(params=["memory", *DATABASES])
def place(request: Any, places: Callable[[str], Place]) -> Iterator[Place]:
    made = places(request.param)
    yield made
    made.empty()


@pytest.fixture
def sql(place: Place) -> Place:
    """A place on a database, for a test of ``on_databases``."""
    return place


on_databases = pytest.mark.parametrize("place", DATABASES, indirect=True)
on_servers = pytest.mark.parametrize("place", DATABASES[1:], indirect=True)


@pytest.fixture
def backend(place: Place) -> Any:
    return place.backend()


@pytest.fixture
def clock(place: Place) -> FakeClock:
    return place.clock


def claimed(backend: Any) -> list[Any]:
    """Claim all jobs."""
    found: list[Any] = backend.claim(WorkerId(uuid.uuid4().hex), None, 1_000)
    return found


def ticks_of(backend: Any, name: str = "five") -> list[tuple[int, str]]:
    """The ticks, the first one first: seconds after noon, and their status."""
    found = backend.schedules.ticks(name, 20_000)
    return [(int(each.instant.timestamp() - NOON), each.status) for each in reversed(found)]


def reasons_of(backend: Any, name: str = "five") -> list[str]:
    found = backend.schedules.ticks(name, 1_000)
    return [each.reason or "" for each in reversed(found)]


# -- ticks


def test_tick_enqueues_a_job_when_it_is_due_and_is_recorded(backend, clock):
    backend.schedules.put(a_schedule(FIVE_MINUTES, "ann", 3))

    assert backend.schedules.get("five").next_at == at(NOON + 300)
    clock.advance(299)
    assert backend.schedules.fire() == 0
    clock.advance(1)
    assert backend.schedules.fire() == 1
    assert backend.schedules.fire() == 0

    [tick] = backend.schedules.ticks("five", 10)
    assert (tick.instant, tick.status, tick.reason) == (at(NOON + 300), "enqueued", None)
    assert backend.schedules.get("five").next_at == at(NOON + 600)
    [claim] = claimed(backend)
    assert (claim.job.uid, claim.job.call.args, claim.job.context) == (tick.uid, ("ann", 3), None)


def test_job_has_the_options_of_its_task(place, backend, clock):
    queue = place.queue()
    queue.schedule("plain", mail, every=timedelta(hours=1))
    queue.schedule("changed", mail.using(priority=1), ["x"], every=timedelta(hours=1))
    queue.schedule("context", with_context, kwargs={"_to": "x"}, every=timedelta(hours=1))
    clock.advance(3600)

    assert backend.schedules.fire() == 3
    found = {c.job.options.priority: c.job for c in claimed(backend)}
    assert sorted(found) == [0, 1, 7]
    assert (found[7].options.queue_name, found[7].options.timeout) == ("mails", 30)
    assert (found[1].options.queue_name, found[1].call.args) == ("mails", ("x",))
    assert found[0].options.takes_context


def test_every_fires_at_its_multiples_since_the_epoch(backend, clock):
    clock.seconds = NOON + 7.25
    backend.schedules.put(a_schedule(Recurrence(every=timedelta(seconds=90))))
    first = (NOON + 7.25) // 90 * 90 + 90

    assert backend.schedules.get("five").next_at == at(first)
    clock.seconds = first
    assert backend.schedules.fire() == 1
    assert backend.schedules.get("five").next_at == at(first + 90)


@pytest.mark.parametrize(
    ("catch_up", "late"),
    [("none", []), ("last", [3300]), (3, [2700, 3000, 3300]), (1000, range(300, 3301, 300))],
    ids=str,
)
def test_fleet_that_was_down_for_an_hour_catches_up_as_the_schedule_says(
    backend, clock, catch_up, late
):
    backend.schedules.put(a_schedule(Recurrence("*/5 * * * *", catch_up=catch_up)))
    clock.advance(3630)  # the tick after an hour is 30 s old, which is not late

    assert backend.schedules.fire() == len(late) + 1

    fired = [seconds for seconds, status in ticks_of(backend) if status == "enqueued"]
    assert fired == [*late, 3600]
    assert [seconds for seconds, _ in ticks_of(backend)] == list(range(300, 3601, 300))
    skipped = [each for each in reasons_of(backend) if each]
    assert len(skipped) == 11 - len(late)
    if skipped:
        assert skipped[0] == f"seen 3330 s after its instant; catch_up is {catch_up!r}"


@pytest.mark.parametrize(("after", "fired"), [(10, 2), (11, 1)])
def test_tick_of_a_short_interval_is_late_after_one_interval(backend, clock, after, fired):
    backend.schedules.put(a_schedule(Recurrence(every=timedelta(seconds=10), catch_up="none")))
    clock.seconds = NOON + 10 + after

    assert backend.schedules.fire() == fired
    assert ticks_of(backend) == [(10, "enqueued" if fired == 2 else "skipped"), (20, "enqueued")]


def test_long_standstill_is_recorded_in_few_rows(place, backend, clock):
    backend.schedules.put(a_schedule(Recurrence(every=timedelta(seconds=1), catch_up=2)))
    clock.advance(5_000)

    assert backend.schedules.fire() == 4
    assert ticks_of(backend)[-4:] == [(each, "enqueued") for each in range(4997, 5001)]
    found = backend.schedules.ticks("five", 5_000)
    assert len(found) <= 1_010
    if place.kind != "memory":  # which keeps the last 1,000
        summary = "with it 999 before, from 2026-03-04 12:00:01 UTC"
        assert (found[-1].instant, summary in found[-1].reason) == (at(NOON + 1_000), True)
    assert backend.schedules.get("five").next_at == at(NOON + 5_001)


# -- changes


def test_put_again_moves_no_tick_unless_its_instants_change(backend, clock):
    backend.schedules.put(a_schedule())
    clock.advance(400)  # one tick is due
    again = backend.schedules.put(a_schedule())
    other = backend.schedules.put(a_schedule(FIVE_MINUTES, "other"))
    moved = backend.schedules.put(a_schedule(Recurrence(cron="0 * * * *"), "other"))

    assert (again.version, again.next_at) == (1, at(NOON + 300))
    assert (other.version, other.next_at) == (2, at(NOON + 300))
    assert (moved.version, moved.next_at) == (3, at(NOON + 3600))


def test_change_pause_and_deletion_are_seen_at_once_by_other_processes(place, clock):
    mine, other = place.backend(), place.backend()
    mine.schedules.put(a_schedule())
    assert [each.name for each in other.schedules.all()] == ["five"]
    mine.schedules.retime("five", Recurrence(every=timedelta(seconds=60)))
    clock.advance(60)
    assert other.schedules.fire() == 1
    mine.schedules.pause("five", "ann")
    clock.advance(60)
    assert other.schedules.fire() == 0
    assert other.schedules.resume("five") is True
    clock.advance(60)
    assert mine.schedules.fire() == 1
    assert other.schedules.delete("five") is True
    clock.advance(60)

    assert mine.schedules.fire() == 0
    assert mine.schedules.get("five") is None
    assert mine.schedules.ticks("five", 10) == []


def test_audit_tells_who_has_done_what_with_a_schedule(backend):
    ann, schedules = Act("ann", "page"), backend.schedules
    schedules.put(a_schedule())
    schedules.pause("five", "ann", act=ann)
    schedules.pause("five", "eve", act=Act("eve", "command"))
    schedules.resume("five", act=ann)
    schedules.resume("five")
    assert schedules.run_now("five", act=ann) is not None
    schedules.delete("five", act=ann)

    told = [(each.user, each.action, each.result) for each in backend.audit.page(None, 10)]
    assert told == [
        ("ann", "delete", "done"), ("ann", "run now", "done"), ("ann", "resume", "done"),
        ("eve", "pause", "nothing to do"), ("ann", "pause", "done"),
    ]  # fmt: skip
    assert {each.subject for each in backend.audit.page(None, 10)} == {"schedule five"}


def test_paused_schedule_skips_its_ticks_and_makes_up_for_none(backend, clock):
    backend.schedules.put(a_schedule())
    assert backend.schedules.pause("five", "ann") is True
    assert backend.schedules.pause("five", "eve") is False
    state = backend.schedules.get("five")
    assert (state.paused_since, state.paused_by) == (at(NOON), "ann")
    clock.advance(300)
    assert backend.schedules.fire() == 0
    clock.advance(600)  # with no worker there
    assert backend.schedules.resume("five") is True
    assert backend.schedules.resume("five") is False
    assert backend.schedules.fire() == 0
    clock.advance(300)

    assert backend.schedules.fire() == 1
    assert ticks_of(backend) == [
        (300, "skipped"), (600, "skipped"), (900, "skipped"), (1200, "enqueued"),
    ]  # fmt: skip
    assert reasons_of(backend) == ["paused by ann"] * 3 + [""]


def test_run_now_enqueues_beside_the_ticks(place, backend, clock):
    queue = place.queue()
    schedule = queue.schedule("five", work, ["x"], cron="*/5 * * * *")
    schedule.pause()
    clock.seconds = NOON + 300  # exactly when a tick is due
    results = [schedule.run_now(), schedule.run_now()]
    schedule.resume()

    claims = claimed(backend)
    assert [claim.job.uid for claim in claims] == [each.id for each in results]
    assert [each.reason for each in schedule.ticks()].count("run now") == 2
    assert len(schedule.ticks()) == 3
    assert schedule.next_at == at(NOON + 600)


def test_methods_say_when_there_is_no_schedule(place):
    queue = place.queue()
    schedule = queue.schedule("five", work, every=timedelta(seconds=60))
    assert schedule.delete() is True

    assert schedule.delete() is schedule.pause() is schedule.resume() is False
    assert schedule.update(every=timedelta(seconds=5)) is schedule.refresh() is False
    assert schedule.run_now() is None
    assert queue.schedules() == []


def test_update_keeps_what_is_left_out(place, clock):
    queue = place.queue()
    made = queue.schedule("five", work, cron="0 3 * * *", timezone="Europe/Berlin", catch_up=4)

    made.update(cron="0 4 * * *")
    assert (made.cron, made.timezone, made.catch_up) == ("0 4 * * *", "Europe/Berlin", 4)
    made.update(catch_up="none")
    assert (made.cron, made.timezone, made.catch_up) == ("0 4 * * *", "Europe/Berlin", "none")
    made.update(every=timedelta(seconds=90))
    assert (made.cron, made.every, made.timezone) == (None, timedelta(seconds=90), None)
    made.update(cron="@daily")
    assert (made.cron, made.every, made.catch_up) == ("@daily", None, "none")
    assert (made.version, made.next_at) == (5, at(NOON + 12 * 3600))
    assert made.upcoming(2) == [at(NOON + 12 * 3600), at(NOON + 36 * 3600)]
    with pytest.raises(ConfigError, match="cron: expected five fields"):
        made.update(cron="daily")


@pytest.mark.parametrize(
    ("name", "task", "args", "error"),
    [
        ("", work, (), ConfigError),
        ("x" * 256, work, (), ConfigError),
        ("a\nb", work, (), ConfigError),
        ("a ", work, (), ConfigError),
        ("a\udc80", work, (), ConfigError),
        (5, work, (), ConfigError),
        ("a", 5, (), BadCall),
        ("a", declared, ("too", "many"), BadCall),
        ("a", limited, (), BadCall),
        ("a", mail.using(run_after=timedelta(1)), (), ConfigError),
    ],
)
def test_schedule_that_cannot_work_is_refused(place, name, task, args, error):
    queue = place.queue()
    with pytest.raises(error):
        queue.schedule(name, task, args, every=timedelta(seconds=60))

    assert queue.schedules() == []


def test_jobs_have_the_policy_of_the_copy_of_a_task(place):
    queue = place.queue()
    for name, copy in {"a": limited.using(limit=3), "b": limited.using(limit=None)}.items():
        queue.schedule(name, copy.using(unique="waiting"), [name], every=timedelta(seconds=60))
    made = {each.name: queue.backend.get(each.run_now().id) for each in queue.schedules()}

    keys = {name: found.job.keys for name, found in made.items()}
    assert keys["a"].limit == Limit("schedule_jobs.limited:a", 3)
    assert keys["b"].limit is None
    assert {each.unique.scope for each in keys.values()} == {"waiting"}


def test_schedule_of_whose_jobs_no_key_can_be_made_keeps_none_from_its_ticks(backend, clock):
    call = Call(limited.func, (), None)
    backend.schedules.put(a_schedule(name="bad", call=call, options=limited))
    backend.schedules.put(a_schedule())
    clock.advance(300)

    assert backend.schedules.fire() == 1
    assert ticks_of(backend) == [(300, "enqueued")]
    assert ticks_of(backend, "bad") == [(300, "skipped")]
    assert "no job can be enqueued: BadCall: limit_key: " in reasons_of(backend, "bad")[0]


# -- declared schedules


def declaration(recurrence: Recurrence = FIVE_MINUTES) -> NewSchedule:
    return NewSchedule(declared.name, Call(declared.func, (), None), declared, recurrence, True)


def test_declared_schedule_and_one_of_that_name_do_not_replace_each_other(backend, place):
    backend.schedules.declare([declaration()])
    with pytest.raises(ConfigError, match="no task declares"):
        place.queue().schedule(declared.name, work, every=timedelta(seconds=60))
    backend.schedules.delete(declared.name)

    place.queue().schedule(declared.name, work, every=timedelta(seconds=60))
    place.backend().schedules.declare([declaration()])
    assert backend.schedules.get(declared.name).is_declared is False


def test_declared_schedule_is_paused_and_not_changed_or_deleted_by_people(backend, place, clock):
    backend.schedules.declare([declaration()])
    [schedule] = place.queue().schedules()
    for change in (schedule.delete, lambda: schedule.update(cron="@daily")):
        with pytest.raises(ConfigError, match=r"which @task declares"):
            change()

    assert schedule.pause() is True
    backend.schedules.declare([declaration()])
    assert place.queue().schedules()[0].is_paused
    assert schedule.explain() == ["it is paused"]


@on_databases
def test_declared_schedule_fires_only_where_it_is_declared(sql, clock):
    declares, other = sql.backend(), sql.backend()
    declares.schedules.declare([declaration()])
    clock.advance(250)
    declares.schedules.declare([declaration()])  # once a minute
    clock.advance(50)

    assert other.schedules.fire() == 0
    assert declares.schedules.fire() == 1


@on_databases
def test_schedule_that_no_process_declares_any_more_is_stale(sql, clock):
    release, next_release = sql.backend(), sql.backend()
    release.schedules.declare([declaration()])
    clock.advance(STALE_SECONDS + 1)

    assert next_release.schedules.get(declared.name).is_stale
    assert next_release.schedules.fire() == 0
    clock.advance(3600)
    assert next_release.schedules.fire() == 0
    [schedule] = sql.queue().schedules()
    assert (schedule.is_stale, schedule.next_at) == (True, None)
    assert "no running process declares it" in schedule.explain()[0]

    release.schedules.declare([declaration()])  # rolled back to
    assert release.schedules.fire() == 0  # no tick of the meantime
    assert schedule.refresh()
    assert (schedule.is_stale, schedule.next_at) == (False, at(NOON + 4200))
    clock.advance(STALE_SECONDS + 1)
    assert schedule.delete() is True


# -- several processes


@on_databases
def test_ten_workers_with_clocks_apart_fire_each_of_many_ticks_once(sql, clock):
    """Up to 2 s before and behind the database's, with a tick each second: 10,000 of them, and a
    quarter as many in ``make fast``."""
    rounds = examples(50)
    first = sql.backend()
    backends = [sql.backend(lambda by=by: clock.seconds + by) for by in range(-2, 3)] * 2
    first.schedules.put(a_schedule(Recurrence(every=timedelta(seconds=1), catch_up=1000)))
    fired = 0
    for number in range(rounds):
        clock.advance(200 + number % 3)
        fired += backends[7 * number % 10].schedules.fire()
        fired += backends[3 * number % 10].schedules.fire()

    found = ticks_of(first)
    assert fired == len(found) >= 200 * rounds
    assert found == [(number, "enqueued") for number in range(1, len(found) + 1)]
    assert first.counts()[READY] == len(found)


@on_databases
def test_threads_that_fire_at_a_barrier_enqueue_each_tick_once(sql, clock):
    for name in ("a", "b", "c"):
        sql.backend().schedules.put(a_schedule(name=name))
    backends = [sql.backend() for _ in range(10)]
    rounds, fired = 3, [0] * 10
    barrier = threading.Barrier(10, action=lambda: clock.advance(300))

    def fire(number: int) -> None:
        for _ in range(rounds):
            barrier.wait(20)
            fired[number] += backends[number].schedules.fire()
            barrier_after.wait(20)

    barrier_after = threading.Barrier(10)
    threads = [threading.Thread(target=fire, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    while sum(each.schedules.fire() for each in backends):
        pass  # what a thread left alone because another had locked it, and not yet fired

    for name in ("a", "b", "c"):
        assert ticks_of(backends[0], name) == [
            (300 * number, "enqueued") for number in range(1, rounds + 1)
        ]
    assert len(backends[0].claim(WorkerId("w"), None, 100)) == 3 * rounds


@on_databases
def test_tick_whose_schedule_was_changed_by_a_slow_clock_comes_once(sql, clock):
    fast, slow = sql.backend(), sql.backend(lambda: clock.seconds - 10)
    fast.schedules.put(a_schedule())
    clock.advance(300)
    assert fast.schedules.fire() == 1
    slow.schedules.retime("five", Recurrence(cron="*/5 0-23 * * *"))  # 10 s before the tick
    assert slow.schedules.get("five").next_at == at(NOON + 300)

    assert fast.schedules.fire() == 0
    assert ticks_of(fast) == [(300, "enqueued")]


@pytest.mark.parametrize("table", ["ticks", "jobs", "schedules"])
@on_databases
def test_tick_and_its_job_are_one_transaction(sql, clock, table):
    """A fault at any statement of the transaction leaves nothing of it behind."""
    backend = sql.backend()
    backend.schedules.put(a_schedule())
    clock.advance(300)
    verb = "UPDATE" if table == "schedules" else "INSERT INTO"
    name = getattr(backend.tables, table).name

    def fail(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith(verb) and name in statement:
            raise KeyboardInterrupt

    event.listen(backend._dialect.engine, "after_cursor_execute", fail)
    with pytest.raises(KeyboardInterrupt):
        backend.schedules.fire()
    event.remove(backend._dialect.engine, "after_cursor_execute", fail)

    other = sql.backend()
    assert ticks_of(other) == []
    assert claimed(other) == []
    assert other.schedules.fire() == 1


@on_servers
def test_schedule_whose_row_is_locked_keeps_nobody_from_the_others(sql, clock):
    backend = sql.backend()
    for name in ("locked", "other"):
        backend.schedules.put(a_schedule(name=name))
    clock.advance(300)
    schedules = sql.tables.schedules
    with sql.engine.connect() as job:
        job.execute(update(schedules).where(schedules.c.name == "locked").values(version=9))
        assert backend.schedules.fire() == 1
        job.rollback()
    backend.schedules._firing._left.clear()

    assert backend.schedules.fire() == 1
    assert ticks_of(backend, "locked") == ticks_of(backend, "other") == [(300, "enqueued")]


@on_databases
def test_schedule_follows_the_transaction_that_makes_and_changes_it(sql, clock):
    queue, other = sql.queue(), sql.backend()
    with queue.in_transaction():
        schedule = queue.schedule("five", work, every=timedelta(seconds=60))
        assert schedule.next_at == at(NOON + 60)
        assert schedule.pause() is schedule.is_paused is True
        assert other.schedules.all() == []
        transaction.abort()
    assert other.schedules.all() == []
    with queue.in_transaction():
        schedule = queue.schedule("five", work, every=timedelta(seconds=60))
        result = schedule.run_now()
        transaction.commit()

    assert [each.name for each in other.schedules.all()] == ["five"]
    assert [claim.job.uid for claim in claimed(other)] == [result.id]


# -- rows that cannot be used


@pytest.mark.parametrize(
    "values",
    [
        {"payload": '{"f":"os:getpid"}', "call_name": "os.getpid"},
        {"options": '{"priority": 100}'},
        {"name": "another"},
        {"call_name": "no_such_module.f", "payload": '{"f":"no_such_module:f"}'},
    ],
    ids=lambda values: "+".join(values),
)
@on_databases
def test_row_that_was_changed_enqueues_nothing_and_the_tick_says_why(sql, clock, values):
    backend = sql.backend()
    backend.schedules.put(a_schedule())
    with sql.engine.begin() as connection:
        connection.execute(update(sql.tables.schedules).values(values))
    clock.advance(300)

    assert backend.schedules.fire() == 0
    [tick] = backend.schedules.ticks(values.get("name", "five"), 10)
    assert tick.status == "skipped"
    assert "no job can be enqueued: BadSignature: " in tick.reason
    assert claimed(backend) == []


@on_databases
def test_call_whose_module_this_process_lacks_is_left_to_others_for_a_while(sql, clock):
    backend, able = sql.backend(secret=None), sql.backend(secret=None)
    able.schedules.put(a_schedule())
    missing = {"call_name": "no_such_module.f", "payload": '{"f":"no_such_module:f"}'}
    with sql.engine.begin() as connection:
        connection.execute(update(sql.tables.schedules).values(missing))
    clock.advance(300)
    assert backend.schedules.fire() == 0
    assert ticks_of(backend) == []
    clock.advance(601)
    backend.schedules._firing._left.clear()

    assert backend.schedules.fire() == 0
    assert [status for _, status in ticks_of(backend)] == ["skipped"] * 3
    assert "ModuleMissing" in reasons_of(backend)[-1]


@on_databases
def test_object_of_this_process_is_refused_as_an_option(sql):
    queue = sql.queue()
    with pytest.raises(NotSerializable, match="backoff"):
        queue.schedule("a", mail.using(backoff=lambda _n: 1.0), every=timedelta(seconds=60))
    with pytest.raises(NotSerializable, match=r"limit_key: .* by @task\(limit_key=\.\.\.\)"):
        queue.schedule("a", limited.using(limit_key=str), ["s"], every=timedelta(seconds=60))
    with pytest.raises(NotSerializable, match="limit"):
        queue.schedule("a", task(limit=1)(work), every=timedelta(seconds=60))


@on_databases
def test_ticks_are_kept_for_the_retention(sql, clock):
    backend = sql.backend(retention_seconds=1000)
    backend.schedules.put(a_schedule())
    for _ in range(6):
        clock.advance(300)
        backend.schedules.fire()
    backend.prune()

    assert ticks_of(backend) == [(seconds, "enqueued") for seconds in (900, 1200, 1500, 1800)]


@on_databases
def test_nothing_is_asked_for_schedules_by_a_claim(sql):
    backend = sql.backend()
    asked: list[str] = []
    me = threading.get_ident()  # the thread that listens for jobs looks for ticks, too

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        asked.extend([statement] if threading.get_ident() == me else [])

    event.listen(backend._dialect.engine, "before_cursor_execute", note)
    claimed(backend)

    assert asked
    assert not [each for each in asked if "schedules" in each or "ticks" in each]


@on_databases
def test_look_of_an_idle_worker_knows_the_next_tick(sql, clock):
    backend, other = sql.backend(), sql.backend()
    backend.schedules.fire()
    assert backend.schedules.due_at() == float("inf")
    woken: list[bool] = []
    backend.schedules.wake = lambda: woken.append(True)
    other.schedules.put(a_schedule())
    if sql.kind == "sqlite":
        backend._wakeup.look()
    else:
        backend.register(WorkerId(uuid.uuid4().hex), None, 1)
        backend.rescue()

    assert backend.schedules.due_at() < float("inf")
    assert woken == [True]
    selected = select(sql.tables.schedules.c.next_at)
    with sql.engine.connect() as connection:
        assert connection.execute(selected).scalars().all() == [NOON + 300]
