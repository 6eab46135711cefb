"""Beside 20,000 keys, duplicates and jobs, what is asked for a unique key uses indexes; see
``test_sql_explain.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, insert

from sqlqueues import KINDS, PREFIX, Place, nothing, place_of
from test_sql_explain import Caught, fill, nodes, reads, steps_of
from tgext.asyncjob.backends.sql import states
from tgext.asyncjob.backends.sql.unique_admission import KEYS_AT_ONCE
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import Job, Outcome, TaskResultStatus, WorkerId
from tgext.asyncjob.policies import Keys
from tgext.asyncjob.task_options import DEFAULT_OPTIONS
from tgext.asyncjob.uniqueness import LATEST, UNFINISHED, UniqueKey
from tgext.asyncjob.uniqueness import PREFIX as KEY_PREFIX

pytestmark = pytest.mark.slow

OTHERS = 20_000

TABLES = (f"{PREFIX}unique_keys", f"{PREFIX}duplicates")

#: Rows, or steps of SQLite, in which nothing is read that grows with a table.
FEW_ROWS, FEW_STEPS = 60, 2_500


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        tables = made.tables
        keys = [{"name": f"{KEY_PREFIX}n{n:05}", "uid": f"u{n}"} for n in range(OTHERS)]
        others = [{"uid": f"d{n}", "leads_to": f"u{n}"} for n in range(OTHERS)]
        with made.engine.begin() as connection:
            fill(connection, made.kind, OTHERS, states.SUCCEEDED, finished_at="4e9 + value")
            connection.execute(insert(tables.unique_keys), keys)
            connection.execute(insert(tables.duplicates), others)
        level = made.engine.execution_options(isolation_level="AUTOCOMMIT")
        with level.connect() as connection:
            for table in (*TABLES, f"{PREFIX}jobs"):
                word = {"sqlite": "", "postgresql": "", "mariadb": "TABLE "}[made.kind]
                connection.exec_driver_sql(f"ANALYZE {word}{table}").close()
        yield made


def caught_in(place: Place) -> list[Caught]:
    """The statements of enqueues, decisions and looks, and of a removal."""
    found: list[Caught] = []

    def catch(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        is_ours = any(name in statement for name in (*TABLES, "blocked_by"))
        if is_ours and not statement.startswith("INSERT"):
            found.append(Caught(statement, parameters))

    backend: Any = place.queue().backend
    worker = WorkerId("w")
    backend.register(worker, None, 1)
    engine = backend._dialect.engine
    event.listen(engine, "before_cursor_execute", catch)
    for scope in (UNFINISHED, LATEST):
        key = UniqueKey(f"{KEY_PREFIX}{scope}", scope)
        call = Call(nothing, (), None)
        jobs = [
            Job(backend.new_uid(), call, DEFAULT_OPTIONS, keys=Keys(unique=key)) for _ in range(3)
        ]
        backend.holders([key])
        backend.enqueue(jobs[:2])
        [claim] = backend.claim(worker, None, 1)
        backend.enqueue(jobs[2:])
        backend.get(jobs[1].uid)
        backend.finish(claim, Outcome(TaskResultStatus.FAILED))
        backend.retry(jobs[0].uid)
        for claim in backend.claim(worker, None, 5):
            backend.finish(claim, Outcome(TaskResultStatus.SUCCESSFUL))
        backend.purge([job.uid for job in jobs])
    event.remove(engine, "before_cursor_execute", catch)
    return found


def test_what_is_asked_for_a_unique_key_uses_an_index(place):
    caught = caught_in(place)
    place.close_queues()

    assert len(caught) > 20
    with place.engine.connect() as connection:
        for each in caught:
            if place.kind == "sqlite":
                assert steps_of(place, each) < FEW_STEPS, each
            elif place.kind == "postgresql":
                explained = f"EXPLAIN (FORMAT JSON) {each.statement}"
                [answer] = connection.exec_driver_sql(explained, each.parameters).scalars()
                scans = [n for n in nodes(answer[0]["Plan"]) if "Relation Name" in n]
                assert scans, each
                assert "Seq Scan" not in {node["Node Type"] for node in scans}, each
            elif each.statement.startswith("SELECT"):
                before = reads(connection)
                connection.exec_driver_sql(each.statement, each.parameters).close()
                assert reads(connection) - before < FEW_ROWS, each
            connection.rollback()


def test_many_keys_are_decided_in_few_transactions(place):
    backend: Any = place.queue().backend
    backend.register(WorkerId("w"), None, 1)
    engine, committed = backend._dialect.engine, 0

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        nonlocal committed
        committed += statement == "COMMIT"

    keys = [UniqueKey(f"{KEY_PREFIX}many {n}", UNFINISHED) for n in range(4 * KEYS_AT_ONCE)]
    call = Call(nothing, (), None)
    jobs = [
        Job(backend.new_uid(), call, DEFAULT_OPTIONS, keys=Keys(unique=key))
        for key in (*keys, *keys)
    ]
    event.listen(engine, "before_cursor_execute", count)
    backend.enqueue(jobs)
    backend._admissions.settle()
    event.remove(engine, "before_cursor_execute", count)

    claims = backend.claim(WorkerId("w"), None, len(jobs))
    backend.finish_many([(claim, Outcome(TaskResultStatus.SUCCESSFUL)) for claim in claims])
    place.close_queues()
    assert len(claims) == len(keys)
    # The thread of the admissions and this one may each begin with a part of them.
    assert committed <= 1 + len(keys) // KEYS_AT_ONCE + 2
