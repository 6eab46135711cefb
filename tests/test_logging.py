"""A failed job leaves a line on stderr, however its application has set up logging.

Each application is a process of its own, since logging is the process's.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from forked_python import OF_COMMANDS, run_forked
from tgext.asyncjob import JobQueue
from tgext.asyncjob.cli.worker_process import log as process_log
from tgext.asyncjob.worker import job_log

pytestmark = pytest.mark.timeout(60)

#: How an application sets up logging, as its module does when it is loaded.
SETUPS = {
    "not at all": "",
    "a file that names other loggers": """
        logging.config.fileConfig(here / "logging.ini")
        """,
    "a dictionary that names none": """
        logging.config.dictConfig({"version": 1})
        """,
    "a root level above INFO": """
        logging.config.fileConfig(here / "logging.ini")
        logging.getLogger().setLevel(logging.ERROR)
        """,
    "no handler": """
        logging.config.dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}})
        logging.getLogger().handlers.clear()
        """,
    "every logger that is there disabled": """
        for name in list(logging.root.manager.loggerDict):
            logging.getLogger(name).disabled = True
        """,
}

INI = """
    [loggers]
    keys = root, shop

    [handlers]
    keys = console

    [formatters]
    keys =

    [logger_root]
    level = WARN
    handlers = console

    [logger_shop]
    level = INFO
    handlers =
    qualname = shop

    [handler_console]
    class = StreamHandler
    args = (sys.stderr,)
    """

SHOP = """
    import logging.config
    from pathlib import Path
    from tgext.asyncjob import JobQueue

    here = Path(__file__).parent
    {setup}

    def wrong():
        raise ValueError("a wrong job")

    def queue():
        return JobQueue("sql", url=f"sqlite:///{here}/jobs.db?timeout=30")
    """

ENQUEUE = "import shop; queue = shop.queue(); queue.perform(shop.wrong); queue.close()"


@pytest.fixture(scope="module")
def enqueued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which a wrong job waits."""
    folder = tmp_path_factory.mktemp("enqueued")
    write_shop(folder, "")
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    run_forked([sys.executable, "-c", ENQUEUE], imports=OF_COMMANDS, env=environ).check_returncode()
    return folder / "jobs.db"  # whole: the last connection has been closed


def write_shop(folder: Path, setup: str) -> None:
    setup = textwrap.indent(textwrap.dedent(setup), "    ")
    (folder / "shop.py").write_text(textwrap.dedent(SHOP.replace("    {setup}", setup)))
    (folder / "logging.ini").write_text(textwrap.dedent(INI))


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["one process", "two"])
@pytest.mark.parametrize("name", SETUPS)
def test_worker_says_that_a_job_failed_whatever_the_logging_of_its_application(
    enqueued: Path, tmp_path: Path, name: str, more: tuple[str, ...]
) -> None:
    write_shop(tmp_path, SETUPS[name])
    shutil.copy(enqueued, tmp_path)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}

    done = run_forked(
        [sys.executable, "-m", "tgext.asyncjob", "worker", "--app", "shop:queue", "--burst", *more],
        imports=OF_COMMANDS, env=environ, cwd=tmp_path, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "failed, no attempts left: a wrong job" in done.stderr
    assert "ValueError: a wrong job" in done.stderr


def test_disabled_loggers_of_the_package_speak_once_the_worker_starts() -> None:
    process_log.disabled = True
    other = logging.getLogger("tgext.asyncjobs_of_others")
    other.disabled = True
    try:
        with JobQueue() as queue:
            queue.start_worker()

            assert not process_log.disabled
            assert other.disabled
    finally:
        process_log.disabled = other.disabled = False


def test_level_of_an_operator_is_kept() -> None:
    package = logging.getLogger("tgext.asyncjob")
    before, package.level = package.level, logging.CRITICAL
    try:
        job_log.install()

        assert package.level == logging.CRITICAL
    finally:
        package.level = before
