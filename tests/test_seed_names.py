"""Every public name of the seeds is there, or CHANGES.txt and a page tell the way out.

The tables list the names of tgext.asyncjob 0.3.1, tornado-slacker 0.1, Looppool 0.3.0 and strand
0.1.8, module by module.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import test_http_django  # noqa: F401 - it configures Django's settings

ROOT = Path(__file__).resolve().parent.parent

#: Name: where it is now; a parameter stands in brackets, after those that come before it.
THERE = {
    "tgext.asyncjob": """
        start_async_worker(app_globals, progress_tracker)
        asyncjob_perform
        asyncjob_running_uid
        asyncjob_set_progress(value, data)
        asyncjob_get_progress
        asyncjob_timed_query(query, retries, interval)
        plugme(configurator, options)
        JobQueue.perform
    """,
    "tgext.asyncjob.slackers": """
        Slacker(obj, worker)
        Postponed(obj, worker)
        Postponed.proceed(self, callback, worker)
        Postponed.fetch
        process
        DummyWorker
        ThreadWorker
        HttpWorker(server, path)
        DjangoWorker(server, path)
        django_backend.urls.urlpatterns
    """,
    "tgext.asyncjob.looppool": """
        Pool(ioloop, pool_size, worker_class)
        Pool.start
        Pool.stop
        Pool.put_nowait(self, message, worker_num)
        Pool.process_message(self, result, result_done)
        Worker(number, ioloop, task_queue, result_queue)
        Worker._initialise
        Worker._process_message(self, task)
        Worker._put_nowait(self, result)
        Worker._task_done
        Worker.start
        Worker.join
        task_done
        utility.ResourceReporter(ioloop, statsd, prefix)
        utility.ResourceReporter.sleep_time
        utility.ResourceReporter.start
        utility.ResourceReporter.stop
    """,
    "tgext.asyncjob.taskrunners": """
        Taskrunner(func)
        ThreadTaskrunner(func)
        ThreadTaskrunner.run
        MultiprocessTaskrunner(func)
        MultiprocessTaskrunner.run
        CoroutineTaskrunner(func)
        CoroutineTaskrunner.acall
        CoroutineTaskrunner.get_coro
        StoreTaskWriter(func, store)
        StoreTaskWriter.task_id
        StoreTaskWriter.result
        StoreTaskReader(store, get_task_func)
        StoreTaskReader.listen
        TaskDispatcher(target, check_complete)
        TaskDispatcher.enqueue(self, func)
        TaskDispatcher.dispatch(self, func)
        TaskDispatcher.run(self, timeout)
        TaskDispatcher.reset
        TaskDispatcher.complete
        TaskDispatcher.results
        TaskDispatcher.status
        TaskDispatcher.errors
        as_task(target)
    """,
}

#: Keywords that a callable takes.
KEYWORDS = {
    "tgext.asyncjob.looppool": {"Pool": "max_tasks max_results"},
    "tgext.asyncjob.taskrunners": {
        "Taskrunner": "on_iter on_end on_error",
        "CoroutineTaskrunner": "yield_on_iter",
        "StoreTaskWriter": "read_store pickle_func get_result",
        "StoreTaskWriter.__call__": "task_id",
        "TaskDispatcher.enqueue": "target args kwargs",
        "TaskDispatcher.dispatch": "target args kwargs",
    },
}

#: What is gone: CHANGES.txt and the page name it.
GONE = {
    "seed.rst": """
        tghooks sqlahelpers trackers MemoryProgressTracker RedisProgressTracker
        asyncjobs_progress_status ProgressTrackerProxy AsyncJobQueue get done AsyncWorkerThread
        running_status configure_transaction remove_session
    """,
    "slackers.rst": """
        pool ioloop CurlHttpWorker HTTPClient url DjangoHttpWorker slacker_execute slacker-execute
        slacker.django_backend.conf _proceed _pickled safe_proceed proceed_pickled SlackerException
        UnpickleableExceptionWrapper get_pickleable_exception adisp.async CallbackDispatcher
        slacker.workers slacker.postpone slacker.adisp slacker.serialization
    """,
    "looppool.rst": "target PoisonPill rss",
    "taskrunners.rst": """
        run_process resolve_runner_cls conditional_logger THREAD PROCESS SYNC STORE COROUTINE
        strand.taskrunning join is_alive
    """,
}


def found(module: str, path: str) -> Any:
    value: Any = importlib.import_module(module)
    for name in path.split("."):
        if not hasattr(value, name) and inspect.ismodule(value):
            value = importlib.import_module(f"{value.__name__}.{name}")
        else:
            value = getattr(value, name)
    return value


def rows(table: dict[str, str]) -> Iterator[Any]:
    """Module, name and parameters of each line."""
    for module, lines in table.items():
        for line in lines.strip().splitlines():
            name, _, parameters = line.strip().rstrip(")").partition("(")
            yield pytest.param(module, name, parameters, id=f"{module}:{name}")


@pytest.mark.parametrize(("module", "name", "parameters"), list(rows(THERE)))
def test_name_of_a_seed_is_there_with_its_arguments_in_their_order(module, name, parameters):
    value = found(module, name)
    if not parameters:
        return

    wanted = parameters.split(", ")
    taken = list(inspect.signature(value).parameters.values())

    assert [parameter.name for parameter in taken[: len(wanted)]] == wanted
    assert all(parameter.kind is not parameter.KEYWORD_ONLY for parameter in taken[: len(wanted)])


@pytest.mark.parametrize(
    ("module", "name", "keywords"),
    [(module, *pair) for module, pairs in KEYWORDS.items() for pair in pairs.items()],
)
def test_callable_of_a_seed_takes_its_keywords(module, name, keywords):
    taken = inspect.signature(found(module, name)).parameters

    assert [keyword for keyword in keywords.split() if keyword not in taken] == []


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, names in GONE.items() for name in names.split()]
)
def test_name_of_a_seed_that_is_gone_is_announced_with_the_way_out(page, name):
    marked = re.compile(rf"``[^`]*(?<![\w.]){re.escape(name)}(?!\w)[^`]*``")

    assert marked.search((ROOT / "CHANGES.txt").read_text(encoding="utf-8"))
    assert marked.search((ROOT / "docs" / page).read_text(encoding="utf-8"))
