"""A small TurboGears2 application whose requests look something up and enqueue.

Runs unchanged with this project's extension and with the released one: both are plugged by
`plugme` and enqueue with `asyncjob_perform`. A TurboGears2 process has one such application.
"""

import atexit
import functools
import logging
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import tg
from sqlalchemy import text
from sqlalchemy.orm import scoped_session, sessionmaker
from tg import MinimalApplicationConfigurator, TGController, expose
from tg.configurator.components.sqlalchemy import SQLAlchemyConfigurationComponent
from tg.configurator.components.transactions import TransactionManagerConfigurationComponent
from webob import Request
from zope.sqlalchemy import register

import tgext.asyncjob
from jobs import hold, tick
from tgext.asyncjob import asyncjob_perform

# TurboGears2 remarks on what a single-file application leaves out
logging.getLogger("tg").setLevel(logging.ERROR)

DBSESSION = scoped_session(sessionmaker())
register(DBSESSION)


class RootController(TGController):
    @expose("json")
    def index(self, jobs: str = "0") -> dict[str, bool]:
        # who enqueues has looked something up first; the driver lets go of the interpreter
        # here, which is when a running worker gets its turn
        DBSESSION.execute(text("select 1")).all()
        for _ in range(int(jobs)):
            asyncjob_perform(tick)
        return {"ok": True}

    @expose("json")
    def hold(self) -> dict[str, bool]:
        asyncjob_perform(hold)
        return {"ok": True}


class Application:
    """The WSGI application with its transaction manager, called as a server calls it."""

    def __init__(self, folder: str) -> None:
        model = SimpleNamespace(
            DBSession=DBSESSION, init_model=lambda engine: DBSESSION.configure(bind=engine)
        )
        configurator = MinimalApplicationConfigurator()
        configurator.register(SQLAlchemyConfigurationComponent)
        configurator.register(TransactionManagerConfigurationComponent)
        configurator.update_blueprint(
            {
                "root_controller": RootController(),
                "use_sqlalchemy": True,
                "model": model,
                # found by name by the released extension's worker
                "DBSession": DBSESSION,
                "sqlalchemy.url": f"sqlite:///{folder}/application.db",
                "renderers": ["json"],
                "default_renderer": "json",
            }
        )
        tgext.asyncjob.plugme(configurator, {})
        self._wsgi = configurator.make_wsgi_app({}, {})

    def released_queue(self) -> Any:
        """The released extension's queue, which needs no request to be used."""
        return tg.config["tg.app_globals"].asyncjob_queue

    def get(self, path: str) -> float:
        """Serve one request; seconds from the call to the last byte of its body."""
        environ = Request.blank(path).environ
        answers: list[str] = []

        begun = time.perf_counter()
        body = self._wsgi(environ, lambda status, *_: answers.append(status))
        try:
            for _ in body:
                pass
        finally:
            if hasattr(body, "close"):
                body.close()
        elapsed = time.perf_counter() - begun

        if answers != ["200 OK"]:
            raise RuntimeError(f"expected 200 OK of {path}, got {answers}")
        return elapsed


@functools.cache
def application() -> Application:
    """Give the one application of this process. Its database goes when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="asyncjob-benchmark-")
    atexit.register(folder.cleanup)
    return Application(folder.name)
