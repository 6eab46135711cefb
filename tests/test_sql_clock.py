"""The database's clock: seconds since the epoch, whatever local time does."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, select

from databases import url_of
from own_servers import own_server
from tgext.asyncjob.backends.sql.tables import epoch

#: When summer time ends in Central Europe: 2026-10-25 01:00 UTC.
END = 1_792_890_000

FAR_EAST = {
    "postgresql": "SET TIME ZONE 'Asia/Tokyo'",
    "mariadb": "SET time_zone = '+09:00'",
}


@pytest.mark.slow
def test_mariadbs_clock_goes_on_evenly_when_summer_time_ends():
    moments = [END - 3601, END - 1800, END - 1, END + 1, END + 1800, END + 3600]
    with own_server("mariadb", TZ="CET-1CEST,M3.5.0,M10.5.0/3") as server:
        engine = create_engine(server.url)
        with engine.connect() as connection:
            found = []
            for moment in moments:
                connection.exec_driver_sql(f"SET timestamp = {moment}")
                found.append(connection.execute(select(epoch())).scalar_one())
        engine.dispose()

    assert found == moments


@pytest.mark.parametrize("kind", FAR_EAST)
def test_clock_does_not_go_by_the_time_zone_of_the_session(kind, tmp_path: Path):
    engine = create_engine(url_of(kind, tmp_path))
    with engine.connect() as connection:
        before = connection.execute(select(epoch())).scalar_one()
        connection.exec_driver_sql(FAR_EAST[kind])
        after = connection.execute(select(epoch())).scalar_one()
        connection.invalidate()
    engine.dispose()

    assert 0 <= after - before < 60


@pytest.mark.parametrize("kind", ["sqlite", *FAR_EAST])
def test_clock_is_the_same_all_through_a_statement(kind, tmp_path: Path):
    """So that an index can be asked for what is due."""
    engine = create_engine(url_of(kind, tmp_path))
    with engine.connect() as connection:
        once, again = connection.execute(select(epoch(), epoch().label("again"))).one()
    engine.dispose()

    assert once == again
