"""The queues that are compared, each started, asked for its cheapest enqueue, and ended.

A contender knows nothing of what is measured. Imports of the queues are late: the released
extension lives in an environment where ours and Huey are not installed, and the other way
round.
"""

import functools
import importlib
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from jobs import PATIENCE_SECONDS

Job = Callable[[], None]


class Contender(Protocol):
    """A running queue in this process."""

    def submitter(self, job: Job) -> Callable[[], Any]:
        """Give a callable that enqueues *job* once, with nothing around it."""

    def settle(self, last: Any) -> None:
        """Wait until the books are closed on the job that *last*, an enqueue's answer, tells of."""

    def close(self) -> None:
        """End all threads, as far as the queue can."""


class ThreadPool:
    """The standard library's pool: a queue without a session, an uid or a state."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads)

    def submitter(self, job: Job) -> Callable[[], Any]:
        return functools.partial(self._executor.submit, job)

    def settle(self, last: Any) -> None:
        last.result(PATIENCE_SECONDS)

    def close(self) -> None:
        self._executor.shutdown()


class HueyMemory:
    """Huey on its memory storage, with its own consumer in threads of this process.

    Its workers poll; an idle one looks again after 1 to 10 ms here, where Huey's defaults are
    100 ms to 10 s, so that a round measures its work and not its sleep.
    """

    def __init__(self, threads: int) -> None:
        huey = importlib.import_module("huey")
        consumer = importlib.import_module("huey.consumer")
        self._huey = huey.MemoryHuey("benchmark")
        self._consumer = consumer.Consumer(
            self._huey, workers=threads, periodic=False, initial_delay=0.001, max_delay=0.01
        )
        # start() would take the signals of this process, which are not the consumer's
        self._consumer._set_signal_handlers = lambda: None
        self._consumer.start()

    def submitter(self, job: Job) -> Callable[[], Any]:
        task: Callable[[], Any] = self._huey.task()(job)
        return task

    def settle(self, last: Any) -> None:
        pass  # a result of None is not stored, so nothing follows the call

    def close(self) -> None:
        self._consumer.stop(graceful=True)


class Ours:
    """This project, with session scope, progress registry and retention shown to work."""

    def __init__(self, threads: int) -> None:
        self._asyncjob = importlib.import_module("tgext.asyncjob")
        self._sqlalchemy = importlib.import_module("sqlalchemy")
        self._zope_sqlalchemy = importlib.import_module("zope.sqlalchemy")
        orm = importlib.import_module("sqlalchemy.orm")
        self._folder = tempfile.TemporaryDirectory(prefix="asyncjob-benchmark-")
        self._engine = self._sqlalchemy.create_engine(f"sqlite:///{self._folder.name}/ours.db")
        self._session = orm.scoped_session(orm.sessionmaker(bind=self._engine))
        self._zope_sqlalchemy.register(self._session)
        self._queue = self._asyncjob.JobQueue(
            backend="memory", session=self._session, threads=threads
        )
        self._queue.start_worker()
        self._check_that_all_of_it_works()

    def _check_that_all_of_it_works(self) -> None:
        """Run one job that writes and reports. Raises RuntimeError unless both are kept."""
        text = self._sqlalchemy.text
        with self._engine.begin() as connection:
            connection.execute(text("create table written (number integer)"))

        def write() -> None:
            self._session.execute(text("insert into written values (1)"))
            self._zope_sqlalchemy.mark_changed(self._session())
            self._asyncjob.asyncjob_set_progress(1, "written", total=1)

        result = self._queue.result(self._queue.perform(write)).wait(timeout=PATIENCE_SECONDS)
        with self._engine.connect() as connection:
            rows = connection.execute(text("select count(*) from written")).scalar()
        if (rows, tuple(result.progress)) != (1, (1, "written", 1)):
            raise RuntimeError(f"expected one row and a progress, got {rows} and {result.progress}")

    def submitter(self, job: Job) -> Callable[[], Any]:
        return functools.partial(self._queue.perform, job)

    def settle(self, last: Any) -> None:
        self._queue.result(last).wait(timeout=PATIENCE_SECONDS)

    def close(self) -> None:
        self._queue.close()
        self._engine.dispose()
        self._folder.cleanup()


class Released:
    """tgext.asyncjob 0.3.1 in a TurboGears2 application: one thread, with its session scope."""

    def __init__(self, threads: int) -> None:
        if threads != 1:
            raise ValueError(f"the released extension has one thread, not {threads}")
        self._queue = importlib.import_module("application").application().released_queue()

    def submitter(self, job: Job) -> Callable[[], Any]:
        # asyncjob_perform needs a request; this is all that it calls
        return functools.partial(self._queue.perform, job, (), {})

    def settle(self, last: Any) -> None:
        self._queue.queue.join()

    def close(self) -> None:
        pass  # its thread ends with the process and waits without polling until then


CONTENDERS: dict[str, Callable[[int], Contender]] = {
    "threadpool": ThreadPool,
    "huey": HueyMemory,
    "ours": Ours,
    "released": Released,
}
