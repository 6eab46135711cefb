"""Jobs on a fleet of Celery workers: real workers on a real Redis and a real RabbitMQ.

What any worker promises, by the same suite as own workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_fleet import OwnWorkers, fleet_of
from sqlqueues import Place, place_of
from worker_contract import WorkerContract, Workers

pytestmark = pytest.mark.slow


#: Who is woken how, and on which database.
KINDS = {
    "own": ("postgresql", "", "--threads"),
    "celery on redis": ("postgresql", "redis", "prefork"),
    "celery on rabbitmq": ("postgresql", "rabbitmq", "prefork"),
    "celery threads on quorum queues": ("mariadb", "quorum queues", "threads"),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: Any) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def place(kind: str, tmp_path_factory: Any) -> Iterator[Place]:
    with place_of(KINDS[kind][0], tmp_path_factory.mktemp("sql")) as made:
        yield made


@pytest.fixture(scope="module")
def workers(kind: str, place: Place, tmp_path_factory: Any) -> Iterator[Workers]:
    folder = tmp_path_factory.mktemp("workers")
    _, broker, pool = KINDS[kind]
    if not broker:
        with OwnWorkers(place.url, folder, pool, "2") as own:
            yield own
        return
    with fleet_of(broker, place.url, folder) as fleet:
        fleet.start("-P", pool, "-c", "2")
        yield fleet


class TestWorkers(WorkerContract):
    """The suite for each kind."""
