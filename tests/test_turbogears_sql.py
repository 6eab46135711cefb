"""A real TurboGears application with ``asyncjob.backend = sql``: all that it had on memory.

This module is the application's, as is ``tggroups``: jobs are functions of it, as they are those of
a project, because a stored call finds them by importing it. Where no thread is needed there is
none: ``threads = 0`` and ``run_pending()``, as an application's own tests have it.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3

import pytest
import sqlalchemy
import tg
import transaction
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from tg.i18n import ugettext
from transaction.interfaces import TransientError
from zope.sqlalchemy import datamanager

from test_turbogears_home import package  # noqa: F401 - a fixture: with a catalogue
from tgapps import COMMITTED_ENDS, Root, Voter, make
from tgext.asyncjob import (
    ConfigError,
    NotCommitted,
    NotSerializable,
    TaskResultStatus,
    UnknownJob,
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_timed_query,
    task,
)
from tgext.asyncjob.backends.sql import states
from tggroups import DBSession, Group, GroupModel

# -- the application's jobs, and what they have seen

#: What jobs have seen, in their order; new for each test.
seen: list = []


def look(name, group_id):
    """The job of most tests: is the row there, at the first look?"""
    seen.append((name, DBSession.get(Group, group_id) is not None))


def see(name):
    seen.append(name)


def add_group(name):
    """Add a group and flush it; gives its id."""
    group = Group(group_name=name)
    DBSession.add(group)
    DBSession.flush()
    return group.group_id


def add_group_and_fail(name):
    add_group(name)
    raise LookupError("of the job")


def add_and_perform(name):
    """What most controllers here do: a row, and a job that looks for it."""
    return asyncjob_perform(look, name, add_group(name))


SQL = {"asyncjob.backend": "sql", "asyncjob.threads": "0"}


@pytest.fixture
def make_app(tmp_path):
    """Makes applications of this module that are closed at the end; ``ini``: further lines."""
    seen.clear()
    apps = []

    def make_one(root=None, *, path="app.db", savepoints=False, ini=None, **blueprint):
        model = GroupModel(tmp_path / path, savepoints=savepoints)
        lines = {**SQL, **(ini or {})}
        apps.append(make(root or Root(), model, ini=lines, **blueprint))
        return apps[-1]

    yield make_one
    for app in apps:
        app.close()


@pytest.fixture
def app(make_app):
    return make_app()


def run_pending(app):
    """Run all jobs here and now; gives what they have seen."""
    app.queue.run_pending()
    return seen


# -- how a request ends


@pytest.mark.parametrize(("end", "status"), [(dict, 200), *COMMITTED_ENDS])
def test_response_that_turbogears_commits_stores_the_job(app, end, status):
    def controller():
        add_and_perform("a")
        return end()

    assert app.does(controller).status_int == status

    assert len(app.model.stored_jobs()) == 1
    assert run_pending(app) == [("a", True)]


def raises():
    raise LookupError("of the controller")


def is_voted_down():
    Voter(LookupError("I vote no"))


@pytest.mark.parametrize("end", [raises, transaction.doom, is_voted_down])
def test_request_that_is_not_committed_never_had_a_job(app, end):
    uids = []

    def controller():
        uids.append(add_and_perform("a"))
        end()

    with contextlib.suppress(LookupError):
        app.does(controller)

    assert uids
    assert app.model.stored_jobs() == []
    assert app.model.groups() == []
    assert run_pending(app) == []
    with pytest.raises(UnknownJob):
        app.queue.result(uids[0])


def test_vetoed_commit_never_had_a_job(make_app):
    veto = {"tm.commit_veto": lambda _environ, status, _headers: status.startswith("4")}
    app = make_app(**veto)

    def controller():
        add_and_perform("a")
        tg.abort(404)

    assert app.does(controller).status_int == 404
    assert app.model.stored_jobs() == []

    assert app.does(lambda: {"uid": add_and_perform("b")}).status_int == 200
    assert run_pending(app) == [("b", True)]


class Commits:
    """What other processes can see just before each commit of the application's session, and
    when its connection goes back: between the two there is nothing but the commit."""

    def __init__(self, app):
        self._model = app.model
        self._seen = []
        for moment in ("commit", "checkin"):
            event.listen(app.model.engine, moment, self._look)

    def _look(self, *_arguments):
        self._seen.append((self._model.groups(), [state for _, state in self._model.stored_jobs()]))

    def seen(self):
        """Each state once, in order."""
        return list({str(each): each for each in self._seen}.values())


def test_job_and_row_are_one_commit(app):
    commits = Commits(app)

    app.does(lambda: {"uid": add_and_perform("a")})

    assert commits.seen() == [([], []), (["a"], [states.AVAILABLE])]


def test_commit_that_the_database_refuses_leaves_neither_job_nor_row(app, monkeypatch):
    def refuse(_connection):
        raise sqlite3.OperationalError("database or disk is full")

    def controller():
        add_and_perform("a")
        monkeypatch.setattr(app.model.engine.dialect, "do_commit", refuse)

    with pytest.raises(OperationalError, match="disk is full"):
        app.does(controller)
    monkeypatch.undo()

    assert app.model.stored_jobs() == []
    assert app.model.groups() == []


@pytest.mark.parametrize("fails_in", ["the controller", "the commit"])
def test_attempts_of_one_request_store_one_job(make_app, fails_in):
    app = make_app(**{"tm.attempts": 3})
    attempts = []

    def controller():
        attempts.append(add_and_perform("a"))
        if len(attempts) < 3:
            if fails_in == "the controller":
                raise TransientError("try again")
            Voter(TransientError("try again"))

    assert app.does(controller).status_int == 200

    assert len(attempts) == 3
    assert [uid for uid, _ in app.model.stored_jobs()] == attempts[2:]
    assert run_pending(app) == [("a", True)]


@pytest.fixture
def savepoint_app(make_app, monkeypatch):
    """zope.sqlalchemy refuses savepoints on SQLite, unless one has seen to it that they work."""
    monkeypatch.setattr(datamanager, "NO_SAVEPOINT_SUPPORT", set())
    return make_app(savepoints=True)


def test_rolled_back_savepoint_takes_its_jobs_along(savepoint_app):
    def controller():
        add_and_perform("before")
        savepoint = transaction.savepoint()
        add_and_perform("inside")
        savepoint.rollback()
        with contextlib.suppress(LookupError), DBSession.begin_nested():
            add_and_perform("nested")
            raise LookupError
        add_and_perform("after")

    assert savepoint_app.does(controller).status_int == 200

    assert len(savepoint_app.model.stored_jobs()) == 2
    assert run_pending(savepoint_app) == [("before", True), ("after", True)]


def test_commit_in_the_middle_of_a_controller_stores_the_jobs_so_far(app):
    def controller():
        add_and_perform("first")
        transaction.commit()
        add_and_perform("second")
        raise LookupError

    with pytest.raises(LookupError):
        app.does(controller)

    assert run_pending(app) == [("first", True)]


def test_without_turbogears_transaction_manager_a_job_is_stored_at_once(make_app):
    app = make_app(**{"tm.enabled": False})

    def controller():
        asyncjob_perform(see, "a")
        return {"stored": len(app.model.stored_jobs())}

    assert app.does(controller).json == {"stored": 1}


def test_jobs_in_another_database_wait_for_the_commit_too(make_app, tmp_path):
    app = make_app(ini={"asyncjob.url": f"sqlite:///{tmp_path}/jobs.db"})

    def controller(fails=None):
        add_and_perform(fails or "a")
        if fails:
            raise LookupError

    with pytest.raises(LookupError):
        app.does(controller, "/?fails=b")
    assert app.does(controller).status_int == 200

    assert run_pending(app) == [("a", True)]
    tables = {name for (name,) in app.model.read("SELECT name FROM sqlite_master")}
    assert not any(name.startswith("asyncjob_") for name in tables)


# -- what the enqueuing request may ask


def test_enqueuing_request_may_ask_for_its_job_but_not_wait_for_it(app):
    def controller():
        uid = add_and_perform("a")
        with pytest.raises(NotCommitted):
            asyncjob_result(uid).wait(10)
        return {"status": asyncjob_result(uid).status, "progress": asyncjob_get_progress(uid)}

    assert app.does(controller).json == {"status": "READY", "progress": [-1, None]}
    assert run_pending(app) == [("a", True)]


def test_job_cancelled_in_the_enqueuing_request_never_exists(app):
    assert app.does(lambda: {"is": asyncjob_result(add_and_perform("a")).cancel()}).json["is"]

    assert app.model.stored_jobs() == []


def test_cancelling_belongs_to_the_request_that_cancels(app):
    uid = app.does(lambda: {"uid": add_and_perform("a")}).json["uid"]

    def controller():
        DBSession.get(Group, 1).display_name = "changed"
        assert asyncjob_result(uid).cancel()
        raise LookupError

    with pytest.raises(LookupError):
        app.does(controller)

    assert app.queue.result(uid).status is TaskResultStatus.READY
    assert run_pending(app) == [("a", True)]


# -- the job's own transaction


def test_work_of_a_job_and_its_mark_are_one_commit(app):
    app.does(lambda: {"uid": asyncjob_perform(add_group, "of the job")})
    commits = Commits(app)

    app.queue.run_pending()

    assert commits.seen() == [([], [states.RUNNING]), (["of the job"], [states.SUCCEEDED])]


def test_failed_job_leaves_no_row(app):
    uid = app.does(lambda: {"uid": asyncjob_perform(add_group_and_fail, "a")}).json["uid"]

    app.queue.run_pending()

    result = app.queue.result(uid)
    assert (result.status, result.errors[0].message) == (TaskResultStatus.FAILED, "of the job")
    assert app.model.groups() == []


def nest(name, fails):
    add_and_perform(name)
    if fails:
        raise LookupError


def test_nested_job_belongs_to_the_job_that_enqueues_it(app):
    def controller():
        asyncjob_perform(nest, "of a failed one", fails=True)
        asyncjob_perform(nest, "of a good one", fails=False)

    app.does(controller)

    assert run_pending(app) == [("of a good one", True)]


@task(max_attempts=2, backoff=0)
def nest_at_the_second_attempt():
    seen.append("an attempt")
    add_and_perform("nested")
    if len(seen) == 1:
        raise LookupError


def test_nested_job_of_a_retried_job_is_enqueued_once(app):
    app.does(lambda: {"uid": nest_at_the_second_attempt.enqueue().id})

    assert run_pending(app) == ["an attempt", "an attempt", ("nested", True)]
    assert app.model.groups() == ["nested"]


def test_job_that_looks_for_a_row_finds_it_at_its_first_look(app):
    statements = []

    def count(_connection, _cursor, statement, *_rest):
        if "tg_group" in statement and statement.startswith("SELECT"):
            statements.append(statement)

    uid = app.does(lambda: {"uid": asyncjob_perform(name_of, add_group("a"))}).json["uid"]
    event.listen(app.model.engine, "before_cursor_execute", count)
    app.queue.run_pending()

    assert app.queue.result(uid).return_value == ("a", "a")
    assert len(statements) == 4  # twice a look, and its fetch


def name_of(group_id):
    query = DBSession.query(Group).filter_by(group_id=group_id)
    chosen = sqlalchemy.select(Group.group_name).where(Group.group_id == group_id)
    return (
        asyncjob_timed_query(query, retries=1).first().group_name,
        DBSession.scalar(asyncjob_timed_query(chosen, retries=1)),
    )


def test_requests_and_jobs_leave_no_connection_checked_out(app):
    for name in "abc":
        app.does(lambda name=name: {"uid": add_and_perform(name)})

    assert len(run_pending(app)) == 3
    assert app.model.engine.pool.checkedout() == 0


# -- the job context


def home():
    """What a job knows of its request."""
    return {
        "package": tg.config["package_name"],
        "has a queue": tg.app_globals.asyncjob_queue is not None,
        "address": tg.url("/album", qualified=True),
        "words": ugettext("Your album is ready"),
        "identity": tg.request.identity,
    }


def test_job_has_language_and_address_of_its_request_and_nobody_is_logged_in(
    make_app, package  # noqa: F811
):  # fmt: skip
    app = make_app(package=package, **{"i18n.enabled": True})
    uid = app.does(
        lambda: {"uid": asyncjob_perform(home)},
        headers={"Accept-Language": "it"},
        extra_environ={"HTTP_HOST": "shop.example", "REMOTE_USER": "ann"},
    ).json["uid"]

    app.queue.run_pending()

    result = app.queue.result(uid)
    assert result.return_value == {
        "package": "homely",
        "has a queue": True,
        "address": "http://shop.example/album",
        "words": "Il tuo album è pronto",
        "identity": None,
    }
    assert result.enqueued_by == "ann"


def test_base_url_of_the_ini_file_is_that_of_every_job(make_app):
    app = make_app(ini={"asyncjob.base_url": "https://example.org/base"})
    uid = app.does(lambda: {"uid": asyncjob_perform(address)}).json["uid"]

    app.queue.run_pending()

    assert app.queue.result(uid).return_value == "https://example.org/base/album"


def address():
    return tg.url("/album", qualified=True)


def test_result_as_json(app):
    uid = app.does(lambda: {"uid": add_and_perform("a")}).json["uid"]

    waiting = app.does(lambda: asyncjob_result(uid)).json
    app.queue.run_pending()
    ended = app.does(lambda: {"job": asyncjob_result(uid)}).json["job"]

    assert (waiting["status"], waiting["finished_at"]) == ("READY", None)
    assert (ended["id"], ended["name"]) == (uid, "test_turbogears_sql.look")
    assert (ended["status"], ended["error"]) == ("SUCCESSFUL", None)
    assert waiting["enqueued_at"] == ended["enqueued_at"] < ended["finished_at"]
    assert "args" not in ended


def test_several_processes_are_welcome(app, caplog):
    with caplog.at_level(logging.WARNING, "tgext.asyncjob"):
        app.does(
            lambda: {"uid": asyncjob_perform(see, "a")}, extra_environ={"wsgi.multiprocess": True}
        )

    assert [each for each in caplog.messages if "several processes" in each] == []


def test_another_application_on_the_same_database_answers_for_the_job_and_runs_it(make_app):
    """As another process does; each has its own queue."""
    one, two = make_app(), make_app()

    uid = one.does(lambda: {"uid": add_and_perform("a")}).json["uid"]
    asked = two.does(lambda: asyncjob_result(uid)).json
    two.queue.run_pending()

    assert asked["status"] == "READY"
    assert one.does(lambda: asyncjob_result(uid)).json["status"] == "SUCCESSFUL"
    assert seen == [("a", True)]


# -- the secret


class Owner:
    """Whose bound method a job is; made anew in each process."""

    def __init__(self, name):
        self.name = name

    def sign(self):
        seen.append(self.name)


def perform_closure():
    name = "a closure"

    def action():
        seen.append(name)

    return {"uid": asyncjob_perform(action), "method": asyncjob_perform(Owner("a method").sign)}


SECRETS = [
    "session.secret",
    "beaker.session.secret",
    "session.validate_key",
    "beaker.session.validate_key",
    "sa_auth.cookie_secret",
]


@pytest.mark.parametrize("key", SECRETS)
def test_secret_of_the_application_is_that_of_its_jobs(make_app, key):
    app = make_app(ini={key: "a secret of the application"})

    assert app.does(perform_closure).status_int == 200

    assert run_pending(app) == ["a closure", "a method"]
    assert app.queue.options.secret == "a secret of the application"


def test_secret_of_the_blueprint_is_one_too(make_app):
    app = make_app(**{"sa_auth.cookie_secret": "of config/app_cfg.py"})

    app.does(perform_closure)

    assert run_pending(app) == ["a closure", "a method"]


def test_secret_of_the_sessions_comes_first_and_an_own_one_before_it(make_app):
    ini = {key: key for key in SECRETS}

    of_the_session = make_app(ini=ini, path="one.db").queue.options.secret
    own = make_app(ini={**ini, "asyncjob.secret": "own"}, path="two.db").queue.options.secret

    assert (of_the_session, own) == ("session.secret", "own")


@pytest.mark.parametrize(
    "lines", [{}, {"sa_auth.cookie_secret": "  "}], ids=["none", "an empty one"]
)
def test_without_a_secret_a_closure_is_refused_with_both_ways_out(make_app, lines):
    app = make_app(ini=lines)

    with pytest.raises(NotSerializable) as refused:
        app.does(perform_closure)

    assert "give asyncjob.secret" in str(refused.value)
    assert "pass an id or a module-level function" in str(refused.value)
    assert app.model.stored_jobs() == []


def test_another_secret_opens_nothing(make_app):
    enqueuing = make_app(ini={"session.secret": "one"})
    other = make_app(ini={"session.secret": "two"})
    uid = enqueuing.does(perform_closure).json["uid"]

    assert run_pending(other) == []

    result = enqueuing.queue.result(uid)
    assert result.status is TaskResultStatus.FAILED
    assert result.errors[0].exception_class_path.endswith("BadSignature")


# -- the database that is none


def test_database_in_memory_is_refused_with_the_line_for_test_ini(make_app):
    in_memory = {"sqlalchemy.url": "sqlite:///:memory:"}

    with pytest.raises(ConfigError, match=r"in test\.ini set asyncjob\.backend = memory"):
        make_app(ini=in_memory)
    app = make_app(ini={**in_memory, "asyncjob.backend": "memory"})

    assert app.does(lambda: {"uid": add_and_perform("a")}).status_int == 200
    assert app.queue.backend.name == "memory"
