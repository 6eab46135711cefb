"""Where one run takes place: the database, the folder of its files, the options of its queues.

The coordinator gives it to the processes it starts as one environment variable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from databases import SERVERS
from tgext.asyncjob import JobQueue

_VARIABLE = "ASYNCJOB_CRASH_PLACE"

SQLITE, POSTGRESQL, MARIADB = KINDS = ("sqlite", "postgresql", "mariadb")

#: Deaths that a job may live through here, where it is killed again and again.
MAX_CRASHES = 10_000

#: Seconds that a worker which is told to stop lets its jobs go on.
DRAIN_SECONDS = 3.0


@dataclass(frozen=True)
class Place:
    """What the processes of one run have in common, and the name of the one that reads it."""

    database: str  #: one of KINDS
    prefix: str  #: what begins the names of the tables
    folder: str
    seed: int
    jobs: int  #: to be enqueued at least, not counting those that jobs enqueue
    seconds: float  #: over which the enqueues of so many are spread
    lease: float
    threads: int = 2
    mutant: str = ""
    name: str = "coordinator"  #: of this process

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database."""
        if self.database == SQLITE:
            # What the library's warning asks of applications with jobs that write.
            return f"sqlite:///{self.folder}/jobs.db?timeout=30"
        url = make_url(SERVERS[self.database][2])
        if self.database == POSTGRESQL:
            url = url.update_query_dict({"application_name": f"{self.prefix}{self.name}"})
        return url.render_as_string(hide_password=False)

    def queue(self, **options: Any) -> JobQueue:
        """Make a queue of this process."""
        return JobQueue(
            "sql",
            url=self.url,
            table_prefix=self.prefix,
            lease=self.lease,
            max_crashes=MAX_CRASHES,
            drain_timeout=DRAIN_SECONDS,
            **options,
        )

    def path(self, suffix: str) -> Path:
        """Return a file of this process."""
        return Path(self.folder, f"{self.name}.{suffix}")

    @property
    def enough(self) -> Path:
        """The file that says that jobs need come no more, once there are ``jobs`` of them."""
        return Path(self.folder, "enough")

    def environment(self) -> Mapping[str, str]:
        """Return what a process started here is to find."""
        tests = str(Path(__file__).resolve().parent.parent)
        return {**os.environ, "PYTHONPATH": tests, _VARIABLE: json.dumps(asdict(self))}


@cache
def here() -> Place:
    """Return the place of this process, which the coordinator has started."""
    return Place(**json.loads(os.environ[_VARIABLE]))
