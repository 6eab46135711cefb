"""The tasks of benchmarks/celery.py: for plain Celery, and for a JobQueue; in a folder of its own,
since a module there is called celery."""

import os
from typing import Any

from sqlalchemy import create_engine, text

from celery import Celery
from tgext.asyncjob import JobQueue, asyncjob_session

URL = os.environ["FLEET_URL"]
PREFIX = os.environ["FLEET_PREFIX"]
BROKER = os.environ["FLEET_BROKER"]

INSERT = text(f"insert into {PREFIX}rows (number) values (:number)")

# -- plain Celery: acks_late, as whoever wants no job lost sets it

plain: Any = Celery("plain", broker=BROKER, set_as_current=False)
plain.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_default_queue=f"{PREFIX}plain",
    worker_send_task_events=False,
)
_engine: Any = None


@plain.task
def plain_nothing(number: int) -> None:
    """Do nothing."""


@plain.task
def plain_row(number: int) -> None:
    """Write one row, and commit."""
    global _engine
    if _engine is None:  # once in each child
        _engine = create_engine(URL)
    with _engine.begin() as connection:
        connection.execute(INSERT, {"number": number})


# -- ours


def nothing(number: int) -> None:
    """Do nothing."""


def row(number: int) -> None:
    """Write one row; the job's commit is its."""
    session = asyncjob_session()
    session.execute(INSERT, {"number": number})


def own() -> JobQueue:
    """Make the queue of own workers."""
    return JobQueue("sql", url=URL, table_prefix=PREFIX, threads=1)


def fleet() -> JobQueue:
    """Make the queue of workers on Celery."""
    return JobQueue("sql", url=URL, table_prefix=PREFIX, engine="celery", broker_url=BROKER)
