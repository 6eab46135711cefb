"""Beside 5,000 schedules and 20,000 ticks what is asked for a tick uses indexes; see
``test_sql_explain.py``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert

from sqlqueues import KINDS, PREFIX, Place, nothing, place_of
from test_sql_explain import Caught, nodes, reads, steps_of
from tgext.asyncjob.backends.schedules import NewSchedule
from tgext.asyncjob.call import Call
from tgext.asyncjob.recurrence import Recurrence
from tgext.asyncjob.task_options import DEFAULT_OPTIONS

pytestmark = pytest.mark.slow

OTHERS, TICKS = 5_000, 20_000

TABLES = (f"{PREFIX}schedules", f"{PREFIX}ticks")

#: Rows, or steps of SQLite, in which nothing is read that grows with a table.
FEW_ROWS, FEW_STEPS = 30, 1_000


@pytest.fixture(scope="module", params=KINDS)
def place(request: Any, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(request.param, tmp_path_factory.mktemp("sql")) as made:
        tables = made.tables
        row = {"call_name": "f", "payload": "{}", "every": 60, "catch_up": "last"}
        others = [{**row, "name": f"n{n:05}", "next_at": 4e9 + n} for n in range(OTHERS)]
        ticks = [{"schedule": f"n{n % 9}", "instant": 4e9 + n} for n in range(TICKS)]
        with made.engine.begin() as connection:
            connection.execute(insert(tables.schedules), others)
            connection.execute(insert(tables.ticks), ticks)
        level = made.engine.execution_options(isolation_level="AUTOCOMMIT")
        with level.connect() as connection:
            for table in TABLES:
                word = {"sqlite": "", "postgresql": "", "mariadb": "TABLE "}[made.kind]
                connection.exec_driver_sql(f"ANALYZE {word}{table}").close()
        yield made


def caught_in(place: Place) -> list[Caught]:
    """The statements of two ticks, the look of a maintenance round, and a pruning."""
    found: list[Caught] = []

    def catch(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        reads_them = any(table in statement for table in TABLES)
        if reads_them and not statement.startswith("INSERT"):
            found.append(Caught(statement, parameters))

    backend: Any = place.queue().backend
    every = Recurrence(every=timedelta(days=1))
    new = NewSchedule("due", Call(nothing, (), None), DEFAULT_OPTIONS, every, False)
    engine = backend._dialect.engine
    event.listen(engine, "before_cursor_execute", catch)
    backend.schedules.put(new)
    with backend._dialect.write() as connection:
        table = backend.tables.schedules
        connection.execute(
            table.update().where(table.c.name == "due").values(next_at=86_400.0 * 20_000)
        )
    backend.schedules.fire()
    backend.schedules.pause("due", None)
    backend.schedules.resume("due")
    backend.schedules.ticks("due", 20)
    backend._wakeup.look()
    backend.prune()
    backend.schedules.delete("due")
    event.remove(engine, "before_cursor_execute", catch)
    return found


def test_what_is_asked_for_a_tick_uses_an_index(place):
    caught = caught_in(place)
    place.close_queues()

    assert len(caught) > 10
    with place.engine.connect() as connection:
        for each in caught:
            if place.kind == "sqlite":
                assert steps_of(place, each) < FEW_STEPS, each
            elif place.kind == "postgresql":
                explained = f"EXPLAIN (FORMAT JSON) {each.statement}"
                [answer] = connection.exec_driver_sql(explained, each.parameters).scalars()
                scans = [n for n in nodes(answer[0]["Plan"]) if n.get("Relation Name") in TABLES]
                assert scans, each
                assert "Seq Scan" not in {node["Node Type"] for node in scans}, each
            elif each.statement.startswith("SELECT"):
                before = reads(connection)
                connection.exec_driver_sql(each.statement, each.parameters).close()
                assert reads(connection) - before < FEW_ROWS, each
            connection.rollback()
