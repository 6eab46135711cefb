"""The proxy that loses answers of commits, which the soak stands on: it does what it says."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, func, insert, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from crash.proxy import answer_proxy
from databases import SERVERS, url_of
from sqlqueues import effects, place_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", SERVERS)
def test_every_third_commit_is_done_and_its_answer_lost(kind, tmp_path):
    url, refused = make_url(url_of(kind, tmp_path)), []
    with place_of(kind, tmp_path) as place:
        with answer_proxy(url.port or SERVERS[kind][1], every=3) as proxy:
            engine = create_engine(url.set(port=proxy.port), poolclass=NullPool)
            for number in range(9):
                try:
                    with engine.begin() as connection:
                        connection.execute(insert(effects).values(text=f"{number}"))
                except DBAPIError:
                    refused.append(number)

        assert refused == [2, 5, 8]
        assert proxy.lost == 3
        with place.engine.connect() as connection:
            assert connection.execute(select(func.count()).select_from(effects)).scalar() >= 8
