"""Real TurboGears applications for tests, each with a SQLite file, a DBSession and a queue.

An application is what a developer has: a configurator, a model, a Globals class. Nothing of the
library is replaced. TurboGears' hooks and ``tg.config`` are the process's, so several of these
live in one process like several applications under one server.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
import tg
import transaction
import webtest
import zope.sqlalchemy
from sqlalchemy import orm
from tg import FullStackApplicationConfigurator, TGController, expose

import projects
from databases import begin_at_the_first_statement, put_tables
from tgext.asyncjob import JobQueue, start_async_worker, task

#: The longest that a test waits for a job. None that is right comes near it.
PATIENCE_SECONDS = 10

#: What needs nothing installed or configured, and is not what these tests are about.
PLAIN = {
    **projects.PLAIN,
    "renderers": ["json"],
    "helpers": types.SimpleNamespace(),
    "default_renderer": "json",
}


class Root(TGController):
    """A site of one page: it does what its test says, and sends what that returns."""

    def __init__(self, action: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.action: Callable[..., Any] = action or dict

    @expose("json")
    def index(self, **params: Any) -> Any:
        found = self.action(**params)
        return {} if found is None else found

    @expose()
    def text(self, **params: Any) -> Any:
        return self.action(**params)


def redirects() -> None:
    tg.redirect("/elsewhere")


def is_not_found() -> None:
    tg.abort(404)


def is_not_found_for_programs() -> None:
    tg.abort(404, passthrough="json")


def says_that_it_failed() -> None:
    tg.response.status = 500


#: Ends of a controller, and their statuses, after which TurboGears commits all the same.
COMMITTED_ENDS = [
    (redirects, 302),
    (is_not_found, 404),
    (is_not_found_for_programs, 404),
    (says_that_it_failed, 500),
]


class Voter:
    """A data manager that has a vote in the commit of the current transaction.

    error: what it votes with; None: it agrees. Its turn is right before the session's, which has
    written what it has by then, and commits with its vote.
    """

    transaction_manager = transaction.manager

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        transaction.get().join(self)

    def sortKey(self) -> str:
        return "~a voter"

    def tpc_vote(self, _txn: Any) -> None:
        if self._error is not None:
            raise self._error

    def _nothing(self, _txn: Any) -> None:
        pass

    abort = tpc_begin = commit = tpc_finish = tpc_abort = _nothing


class Globals:
    """What a developer writes in lib/app_globals.py."""

    def __init__(self) -> None:
        start_async_worker()


def globals_with(**options: Any) -> type:
    """A Globals class that starts the worker with options."""

    class Configured:
        def __init__(self) -> None:
            self.returned = start_async_worker(**options)

    return Configured


class Model:
    """A model package: ``init_model``, ``DBSession`` and a table of items."""

    def __init__(self, path: Path) -> None:
        put_tables(path)
        self.url = f"sqlite:///{path}"
        self.engines: list[Any] = []  # one for each application made with it
        self.DBSession = orm.scoped_session(orm.sessionmaker())
        zope.sqlalchemy.register(self.DBSession)
        base = orm.declarative_base()
        columns = {
            "__tablename__": "item",
            "id": sqlalchemy.Column(sqlalchemy.Integer, primary_key=True),
            "name": sqlalchemy.Column(sqlalchemy.String, unique=True),
        }
        self.Item: Any = type("Item", (base,), columns)
        self.metadata = base.metadata

    @property
    def engine(self) -> Any:
        """That of the application."""
        return self.engines[-1]

    def as_module(self) -> types.ModuleType:
        """What the configurator wants as ``model``."""
        made = types.ModuleType("model")
        vars(made).update(DBSession=self.DBSession, init_model=self.init_model)
        return made

    def init_model(self, engine: Any) -> None:
        """Bind the session, and make SAVEPOINT work on SQLite."""
        begin_at_the_first_statement(engine)
        self.engines.append(engine)
        self.DBSession.configure(bind=engine)
        self.metadata.create_all(engine)

    def add(self, name: str) -> int:
        """Add an item in this thread's session, flush it, and return its id."""
        item = self.Item(name=name)
        self.DBSession.add(item)
        self.DBSession.flush()
        return int(item.id)

    def has(self, item_id: int) -> bool:
        """Whether this thread's session finds an item at its first look."""
        return self.DBSession.get(self.Item, item_id) is not None

    def committed(self) -> list[str]:
        """The names of the items that are committed, read on a connection of its own."""
        with self.engine.connect() as connection:
            table = self.Item.__table__
            return sorted(connection.execute(table.select()).scalars("name"))

    def close(self) -> None:
        """Let go of the database."""
        self.DBSession.remove()
        for engine in self.engines:
            engine.dispose()


class App:
    """One application, ready to be asked over HTTP by way of ``web``."""

    def __init__(self, wsgi: Any, tgapp: Any, model: Model | None) -> None:
        self.wsgi = wsgi
        self.tgapp = tgapp
        self.conf = tgapp.config
        self.model: Any = model
        self.web = webtest.TestApp(wsgi)

    @property
    def queue(self) -> JobQueue:
        """The application's queue."""
        found: JobQueue = self.conf["tg.app_globals"].asyncjob_queue
        return found

    @property
    def root(self) -> Any:
        """The root controller."""
        return self.conf["tg.root_controller"]

    def get(self, path: str = "/", **options: Any) -> Any:
        """Ask for a page; any status is an answer."""
        return self.web.get(path, expect_errors=True, **options)

    def does(self, action: Callable[..., Any], path: str = "/", **options: Any) -> Any:
        """Ask for a page whose controller does *action*."""
        self.root.action = action
        return self.get(path, **options)

    def ended(self, uid: str) -> Any:
        """Wait for a job's end and return its result."""
        return self.queue.result(uid).wait(PATIENCE_SECONDS)

    def run_all(self) -> None:
        """Return when every job that exists now has ended.

        One thread takes jobs in the order in which they were enqueued, so that a last one of
        the least priority ends last.
        """
        assert self.queue.options.threads == 1
        last = task(priority=-100)(_nothing)
        with self.queue.as_current():
            last.enqueue().wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Stop the worker and let go of the database."""
        queue = getattr(self.conf["tg.app_globals"], "asyncjob_queue", None)
        if queue is not None:
            queue.close()
        if self.model is not None:
            self.model.close()


def _nothing() -> None:
    """The last job of all."""


def make(
    root: Any,
    model: Model | None = None,
    *,
    configurator: Any = None,
    app_globals: Any = Globals,
    ini: dict[str, Any] | None = None,
    **blueprint: Any,
) -> App:
    """Make an application as ``make_wsgi_app`` of a project does.

    configurator: None: a FullStackApplicationConfigurator. app_globals: None: TurboGears' own
    empty one. ini: what the .ini file says. blueprint: what ``config/app_cfg.py`` says;
    underscores may not stand for dots, give such names as ``**{...}``.
    """
    configurator = configurator or FullStackApplicationConfigurator()
    settings = {**PLAIN, "root_controller": root, **blueprint}
    if app_globals is not None:
        settings["app_globals"] = app_globals
    if model is not None:
        settings["use_sqlalchemy"] = True
        settings["model"] = model.as_module()
        settings["DBSession"] = model.DBSession
        settings["sqlalchemy.url"] = model.url
    configurator.update_blueprint(settings)
    return serve(lambda: configurator.make_wsgi_app({}, dict(ini or {})), model)


def serve(make_wsgi_app: Callable[[], Any], model: Model | None = None) -> App:
    """Make an App of whatever makes the WSGI application."""
    made: list[Any] = []

    def remember(tgapp: Any) -> None:
        made.append(tgapp)

    tg.hooks.register("configure_new_app", remember)
    try:
        wsgi = make_wsgi_app()
    finally:
        tg.hooks.disconnect("configure_new_app", remember)
    return App(wsgi, made[-1], model)


@contextmanager
def applications(path: Path) -> Iterator[Callable[..., App]]:
    """A maker of applications that are closed at the end; each has a database under *path*.

    The maker takes what ``make`` takes, but a model: ``database=False`` for none.
    """
    apps: list[App] = []
    models: list[Model] = []  # also of applications that could not be made

    def make_one(root: Any = None, *, database: bool = True, **options: Any) -> App:
        model = Model(path / f"{len(models)}.db") if database else None
        models.extend([model] if model else [])
        apps.append(make(root or Root(), model, **options))
        return apps[-1]

    try:
        yield make_one
    finally:
        for app in apps:
            app.close()
        for model in models:
            model.close()
