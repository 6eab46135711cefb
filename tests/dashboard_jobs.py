"""Jobs as a site has them, for the pages of the dashboard: of several tasks, queues and users."""

from __future__ import annotations

from typing import Any

from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.statistics import Counts, Statistics, minute_of
from tgext.asyncjob.call import Call
from tgext.asyncjob.job import (
    FAILED,
    RUNNING,
    SUCCESSFUL,
    Job,
    Outcome,
    Progress,
    TaskError,
    WorkerId,
)
from tgext.asyncjob.policies import Keys
from tgext.asyncjob.task_options import TaskOptions

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/shop/controllers/orders.py", line 41, in send_invoice
    client.post(url, data=invoice)
  File "/srv/venv/lib/python3.11/site-packages/requests/api.py", line 115, in post
    return request("post", url, data=data, json=json, **kwargs)
  File "/srv/shop/shop/model/money.py", line 7, in total
    return sum(line.price for line in lines)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.11/socket.py", line 851, in create_connection
    raise exceptions[0]
ConnectionRefusedError: [Errno 111] Connection refused
"""
REFUSED = TaskError("builtins.ConnectionRefusedError", "[Errno 111] Connection refused", TRACEBACK)


def send_invoice(order: int, customer: str, api_key: str = "", **_more: Any) -> None:
    """What one of the jobs would do."""


def resize_pictures_of_a_whole_album_and_tell_its_owner(album: Any) -> None:
    """What another one would do, with a long name."""


class Shop:
    """Fills a queue with jobs, by a worker of its own that runs nothing."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.backend: Any = queue.backend
        self.worker = WorkerId("web1-4711-5f3a")
        self.backend.register(self.worker, None, 4)

    def add(
        self, function: Any = send_invoice, args: tuple[Any, ...] = (1042, "Ann"), *,
        kwargs: Any = None, queue_name: str = "mail", user: str | None = "ann", after: Any = None,
        keys: Keys | None = None, priority: int = 0,
    ) -> str:  # fmt: skip
        options = TaskOptions(max_attempts=3, queue_name=queue_name, priority=priority)
        call = Call(function, args, kwargs)
        job = Job(self.backend.new_uid(), call, options, after, {"user": user}, keys)
        self.backend.enqueue([self.backend.prepare(job)])
        return str(job.uid)

    def start(self, uid: str, *report: Any, queue_name: str = "mail") -> Any:
        """Claim the job; it must be the next one of its queue."""
        [claim] = self.backend.claim(self.worker, [queue_name], 1)
        assert claim.job.uid == uid
        if report:
            self.backend.report(claim, Progress(*report))
            if self.backend.is_shared:  # lists read the table, which a thread writes
                self.backend._progress._write()
        return claim

    def end(self, uid: str, outcome: Outcome, queue_name: str = "mail") -> str:
        self.backend.finish(self.start(uid, queue_name=queue_name), outcome)
        return uid

    def fail(self, error: TaskError = REFUSED, **options: Any) -> str:
        uid = self.add(**options)
        log = ("INFO shop.orders: sending", "WARNING shop.orders: slow answer")
        return self.end(
            uid, Outcome(FAILED, error=error, log=log), options.get("queue_name", "mail")
        )

    def open(self) -> dict[str, str]:
        """Fill it; return uids by what they show."""
        found = {"failed": self.fail(kwargs={"api_key": "swordfish"})}
        for _ in range(3):
            self.fail()
        self.fail(TaskError("shop.errors.NoSuchOrder", "order 17", ""), user=None)
        done = Outcome(SUCCESSFUL, result={"sent": 3, "to": ["ann@shop.example"]})
        found["done"] = self.end(self.add(), done)
        cancelled = self.add(user="bob")
        self.backend.cancel(cancelled)
        found["cancelled"] = cancelled
        album = self.add(
            resize_pictures_of_a_whole_album_and_tell_its_owner,
            ({"album": 7, "secret": "x"},), queue_name="pictures",
        )  # fmt: skip
        found["running"] = album
        self.start(album, 30, "picture 30", 120, queue_name="pictures")
        found["waiting"] = self.add()
        self.add(queue_name="reports", user=None)
        self.backend.pause("reports", "bob")
        assert self.queue.result(album).status is RUNNING
        return found


class PastDay(Statistics):
    """What has ended in a day that went well but for an hour; time goes on with the page's."""

    def __init__(self, now: float) -> None:
        self.now = minute_of(now)

    def collect(self) -> bool:
        return False

    def series(self, since: int, step: int) -> dict[int, Counts]:
        found: dict[int, Counts] = {}
        for minute in range(since, self.now):
            into = found.setdefault(minute - minute % step, Counts())
            into.add(self._counts(minute))
        return found

    def by_task(self, since: int, limit: int) -> list[tuple[str, Counts]]:
        total = Counts()
        for counts in self.series(since, 1).values():
            total.add(counts)
        return [("shop.orders.send_invoice", total), ("", Counts(done=1, took=_took(9)))][:limit]

    def _counts(self, minute: int) -> Counts:
        ago = self.now - minute
        done, failed = 20 + minute % 7, 9 if 20 < ago < 50 else minute % 31 == 0
        return Counts(
            done=done, failed=int(failed), cancelled=minute % 3, retried=int(failed),
            started=done, waited_seconds=2.0 * done, ran_seconds=1.0 * done,
            took=[a + b for a, b in zip(_took(4, done), _took(7 + minute % 3, 3), strict=True)],
        )  # fmt: skip


def _took(which: int, number: int = 1) -> list[int]:
    found = Counts().took
    found[which] = number
    return found
