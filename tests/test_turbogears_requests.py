"""Promise 1 in a real application: a job belongs to the request that enqueued it.

Commit, and the job exists, and finds the request's rows at its first look; anything else, and it
never existed.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import tg
import transaction
import webtest
from sqlalchemy import event
from tg import TGController, expose
from transaction.interfaces import TransientError
from zope.sqlalchemy import datamanager

from tgapps import COMMITTED_ENDS, Root, Voter, applications
from tgext.asyncjob import (
    ConfigError,
    NotCommitted,
    TaskResultStatus,
    UnknownJob,
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_running_uid,
    asyncjob_set_progress,
    asyncjob_timed_query,
    task,
)


@pytest.fixture
def make_app(tmp_path):
    with applications(tmp_path) as make:
        yield make


class Site:
    """An application, and what its jobs have seen."""

    def __init__(self, app):
        self.app = app
        self.model = app.model
        self.seen = []

    def look(self, name, item_id):
        """The job: is the row there, at the first look?"""
        self.seen.append((name, self.model.has(item_id)))

    def add_and_perform(self, name):
        """What most controllers here do: a row, and a job that looks for it."""
        return asyncjob_perform(self.look, name, self.model.add(name))

    def ran(self):
        """What the jobs have seen, once all of them have ended."""
        self.app.run_all()
        return self.seen

    def does(self, action, path="/", **options):
        return self.app.does(action, path, **options)


@pytest.fixture
def site(make_app):
    return Site(make_app())


@pytest.fixture
def make_site(make_app):
    return lambda *args, **options: Site(make_app(*args, **options))


# -- how a request ends


def test_job_runs_after_the_commit_and_sees_the_row_at_its_first_look(site):
    assert site.does(lambda: {"uid": site.add_and_perform("a")}).status_int == 200

    assert site.ran() == [("a", True)]


def test_job_waits_for_the_commit_even_if_the_controller_takes_its_time(site):
    job_began = threading.Event()

    def controller():
        asyncjob_perform(job_began.set)
        # asks the queue for all it has: this job is not there
        assert site.app.queue.backend.waiting() == 0
        assert not job_began.wait(0.05)

    assert site.does(controller).status_int == 200

    site.ran()
    assert job_began.is_set()


def test_exception_and_the_job_never_existed(site):
    uids = []

    def controller():
        uids.append(site.add_and_perform("a"))
        raise LookupError("of the controller")

    with pytest.raises(LookupError, match="of the controller"):
        site.does(controller)

    assert site.ran() == []
    with pytest.raises(UnknownJob):
        site.app.queue.result(uids[0])
    assert site.model.committed() == []


def test_doomed_transaction_and_the_job_never_existed(site):
    def controller():
        site.add_and_perform("a")
        transaction.doom()

    assert site.does(controller).status_int == 200  # TurboGears tells nobody

    assert site.ran() == []
    assert site.model.committed() == []


def veto_of_errors(_environ, status, _headers):
    """A commit veto as repoze.tm2 ships one."""
    return status.startswith(("4", "5"))


def test_vetoed_commit_and_the_job_never_existed(make_site):
    site = make_site(**{"tm.commit_veto": veto_of_errors})

    def controller():
        site.add_and_perform("a")
        tg.abort(404)

    assert site.does(controller).status_int == 404
    assert site.ran() == []

    assert site.does(lambda: {"uid": site.add_and_perform("b")}).status_int == 200
    assert site.ran() == [("b", True)]


def test_failed_commit_and_the_job_never_existed(site):
    def controller():
        site.add_and_perform("a")
        Voter(RuntimeError("I vote no"))

    with pytest.raises(RuntimeError, match="I vote no"):
        site.does(controller)

    assert site.ran() == []
    assert site.model.committed() == []


@pytest.mark.parametrize(("end", "status"), COMMITTED_ENDS)
def test_response_that_turbogears_commits_lets_the_job_run(site, end, status):
    def controller():
        site.add_and_perform("a")
        end()

    assert site.does(controller).status_int == status

    assert site.ran() == [("a", True)]


# -- requests that are tried again


@pytest.mark.parametrize("fails_in", ["the controller", "the commit"])
def test_attempts_of_one_request_make_one_job(make_site, fails_in):
    site = make_site(**{"tm.attempts": 3})
    attempts = []

    def controller():
        attempts.append(site.add_and_perform("a"))
        if len(attempts) < 3:
            if fails_in == "the controller":
                raise TransientError("try again")
            Voter(TransientError("try again"))

    assert site.does(controller).status_int == 200

    assert len(attempts) == 3
    assert site.ran() == [("a", True)]
    assert site.app.queue.result(attempts[2]).status is TaskResultStatus.SUCCESSFUL
    for uid in attempts[:2]:
        with pytest.raises(UnknownJob):
            site.app.queue.result(uid)


# -- savepoints


@pytest.fixture
def with_savepoints(monkeypatch):
    """Let zope.sqlalchemy make savepoints on SQLite, as its manual says.

    It refuses by default, because pysqlite's own handling of transactions breaks them; Model
    leaves that to SQLAlchemy.
    """
    monkeypatch.setattr(datamanager, "NO_SAVEPOINT_SUPPORT", set())


def test_rolled_back_savepoint_takes_its_jobs_along(site, with_savepoints):
    def controller():
        site.add_and_perform("before")
        savepoint = transaction.savepoint()
        site.add_and_perform("inside")
        savepoint.rollback()
        site.add_and_perform("after")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("before", True), ("after", True)]
    assert site.model.committed() == ["after", "before"]


def test_kept_savepoint_keeps_its_jobs(site, with_savepoints):
    def controller():
        site.add_and_perform("before")
        transaction.savepoint()
        site.add_and_perform("inside")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("before", True), ("inside", True)]


def test_rolled_back_savepoint_older_than_the_first_job_takes_it_along(site):
    def controller():
        savepoint = transaction.savepoint()
        asyncjob_perform(site.seen.append, "inside")
        savepoint.rollback()

    assert site.does(controller).status_int == 200

    assert site.ran() == []


def test_job_runs_that_is_enqueued_after_the_rollback_of_a_savepoint_older_than_the_first(site):
    def controller():
        savepoint = transaction.savepoint()
        asyncjob_perform(site.seen.append, "inside")
        savepoint.rollback()
        asyncjob_perform(site.seen.append, "after")

    assert site.does(controller).status_int == 200

    assert site.ran() == ["after"]


def test_savepoint_may_be_rolled_back_twice(site):
    def controller():
        asyncjob_perform(site.seen.append, "before")
        savepoint = transaction.savepoint()
        for number in range(2):
            asyncjob_perform(site.seen.append, number)
            savepoint.rollback()
        asyncjob_perform(site.seen.append, "after")

    assert site.does(controller).status_int == 200

    assert site.ran() == ["before", "after"]


def test_rolled_back_begin_nested_takes_its_jobs_along(site):
    def controller():
        site.add_and_perform("before")
        nested = site.model.DBSession.begin_nested()
        site.add_and_perform("inside")
        nested.rollback()
        site.add_and_perform("after")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("before", True), ("after", True)]
    assert site.model.committed() == ["after", "before"]


def test_begin_nested_that_an_exception_ends_takes_its_jobs_along(site):
    def controller():
        with suppress(LookupError), site.model.DBSession.begin_nested():
            site.add_and_perform("inside")
            raise LookupError
        site.add_and_perform("after")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("after", True)]


def test_kept_begin_nested_keeps_its_jobs(site):
    def controller():
        with site.model.DBSession.begin_nested():
            site.add_and_perform("inside")
        site.add_and_perform("after")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("inside", True), ("after", True)]


def test_outer_begin_nested_takes_the_jobs_of_a_kept_inner_one_along(site):
    def controller():
        with suppress(LookupError), site.model.DBSession.begin_nested():
            site.add_and_perform("outer")
            with site.model.DBSession.begin_nested():
                site.add_and_perform("inner")
            raise LookupError
        site.add_and_perform("after")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("after", True)]


def test_inner_begin_nested_takes_only_its_own_jobs_along(site):
    def controller():
        with site.model.DBSession.begin_nested():
            site.add_and_perform("outer")
            with suppress(LookupError), site.model.DBSession.begin_nested():
                site.add_and_perform("inner")
                raise LookupError

    assert site.does(controller).status_int == 200

    assert site.ran() == [("outer", True)]


@pytest.mark.parametrize("kind", ["begin_nested", "savepoint"])
def test_rollback_takes_its_jobs_along_though_an_older_one_was_cancelled_meanwhile(site, kind):
    def controller():
        older = asyncjob_perform(site.seen.append, "older")
        begin = (
            site.model.DBSession.begin_nested if kind == "begin_nested" else transaction.savepoint
        )
        begun = begin()
        asyncjob_result(older).cancel()
        asyncjob_perform(site.seen.append, "inside")
        begun.rollback()

    assert site.does(controller).status_int == 200

    assert "inside" not in site.ran()


# -- commits in the middle, and hooks


def test_commit_in_the_middle_of_a_controller_lets_the_jobs_so_far_run(site):
    committed = threading.Event()

    def job():
        committed.set()

    def controller():
        site.add_and_perform("first")
        asyncjob_perform(job)
        transaction.commit()
        assert committed.wait(10), "the job did not run while the controller did"
        site.add_and_perform("second")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("first", True), ("second", True)]


def test_exception_after_a_commit_in_the_middle_drops_the_jobs_after_it(site):
    def controller():
        site.add_and_perform("first")
        transaction.commit()
        site.add_and_perform("second")
        raise LookupError

    with pytest.raises(LookupError):
        site.does(controller)

    assert site.ran() == [("first", True)]
    assert site.model.committed() == ["first"]


def test_abort_in_the_middle_of_a_controller_drops_the_jobs_so_far(site):
    def controller():
        site.add_and_perform("first")
        transaction.abort()
        site.add_and_perform("second")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("second", True)]


def test_begin_in_the_middle_of_a_controller_drops_the_jobs_so_far(site):
    def controller():
        site.add_and_perform("first")
        transaction.begin()
        site.add_and_perform("second")

    assert site.does(controller).status_int == 200

    assert site.ran() == [("second", True)]


def test_job_enqueued_in_a_before_commit_hook_belongs_to_that_commit(site):
    def controller():
        item_id = site.model.add("a")
        transaction.get().addBeforeCommitHook(asyncjob_perform, (site.look, "a", item_id))

    assert site.does(controller).status_int == 200

    assert site.ran() == [("a", True)]


@pytest.mark.parametrize("part", ["the request's first", "a second"])
def test_job_enqueued_in_a_before_commit_hook_goes_with_a_commit_that_fails(site, part):
    def controller():
        if part == "a second":
            transaction.commit()
        transaction.get().addBeforeCommitHook(asyncjob_perform, (site.seen.append, "a job"))
        Voter(RuntimeError("I vote no"))

    with pytest.raises(RuntimeError, match="I vote no"):
        site.does(controller)

    assert site.ran() == []


def test_job_enqueued_in_an_after_commit_hook_runs_at_once(site):
    def hook(committed, item_id):
        assert committed
        asyncjob_perform(site.look, "a", item_id)

    def controller():
        transaction.get().addAfterCommitHook(hook, (site.model.add("a"),))

    assert site.does(controller).status_int == 200

    assert site.ran() == [("a", True)]


def test_job_enqueued_in_an_after_abort_hook_runs_at_once(site):
    """A message that something failed, say."""

    def controller():
        transaction.get().addAfterAbortHook(asyncjob_perform, (site.seen.append, "it failed"))
        raise LookupError

    with pytest.raises(LookupError):
        site.does(controller)

    assert site.ran() == ["it failed"]


@pytest.mark.parametrize("when", ["addBeforeCommitHook", "addAfterCommitHook"])
def test_hooks_know_their_application_where_the_process_has_two(make_site, when):
    site, other = make_site(), make_site()
    problems = []

    def hook(*_committed):
        try:
            asyncjob_perform(site.seen.append, "here")
        except ConfigError as error:
            problems.append(error)

    def controller():
        getattr(transaction.get(), when)(hook)

    assert site.does(controller).status_int == 200

    assert not problems
    assert site.ran() == ["here"]
    assert other.ran() == []


# -- streamed bodies


def test_streamed_body_enqueues_at_once(site):
    """The request's transaction has been committed by then, and nobody commits another."""
    done = threading.Event()

    def job():
        done.set()

    def body():
        yield b"one,"
        asyncjob_perform(job)
        assert done.wait(10), "the job did not run while the body was being sent"
        yield b"two"

    answer = site.does(body, "/text")

    assert answer.body == b"one,two"


def test_streamed_body_knows_its_application_where_the_process_has_two(make_site):
    site, other = make_site(), make_site()

    def body():
        yield b"a,"
        yield asyncjob_perform(site.seen.append, "here").encode()

    uid = site.does(body, "/text").text.removeprefix("a,")

    assert site.app.ended(uid).status is TaskResultStatus.SUCCESSFUL
    assert site.ran() == ["here"]
    assert other.ran() == []


def test_streamed_body_of_a_controller_that_enqueued_too(site):
    def controller():
        item_id = site.model.add("a")
        asyncjob_perform(site.look, "controller", item_id)

        def body():
            asyncjob_perform(site.look, "body", item_id)
            yield b"done"

        return body()

    assert site.does(controller, "/text").body == b"done"

    assert site.ran() == [("controller", True), ("body", True)]


def test_streamed_body_that_nobody_wants_the_rest_of_is_closed_and_may_enqueue_then(make_site):
    site, _other = make_site(), make_site()
    problems = []

    def body():
        try:
            yield b"one"
            yield b"two"
        finally:
            try:
                asyncjob_perform(site.seen.append, "closed")
            except ConfigError as error:
                problems.append(error)

    site.app.root.action = body
    answer = site.app.wsgi(
        webtest.TestRequest.blank("/text").environ, lambda status, headers, error=None: None
    )
    assert next(iter(answer)) == b"one"
    answer.close()

    assert not problems
    assert site.ran() == ["closed"]


# -- error documents


class ErrorController(TGController):
    action = staticmethod(lambda: None)

    @expose("json")
    def document(self, **_params):
        self.action()
        return {"error": "document"}


def test_error_document_is_a_transaction_of_its_own(make_site):
    root = Root()
    root.error = ErrorController()
    site = make_site(root, **{"errorpage.enabled": True})

    def controller():
        site.add_and_perform("controller")
        tg.abort(404)

    def document():
        site.add_and_perform("document")

    root.error.action = document
    answer = site.does(controller)

    assert answer.json == {"error": "document"}
    assert site.ran() == [("controller", True), ("document", True)]


def test_jobs_of_a_failed_request_do_not_come_back_with_its_error_document(make_site):
    root = Root()
    root.error = ErrorController()
    site = make_site(
        root, **{"errorpage.enabled": True, "trace_errors.enable": True, "debug": False}
    )

    def controller():
        site.add_and_perform("controller")
        raise LookupError

    root.error.action = lambda: site.add_and_perform("document")
    answer = site.does(controller)

    assert answer.status_int == 500
    assert answer.json == {"error": "document"}
    assert site.ran() == [("document", True)]


# -- transactions that are somebody else's, or nobody's


def test_without_turbogears_transaction_manager_a_job_runs_at_once(make_site):
    site = make_site(**{"tm.enabled": False})

    def controller():
        uid = asyncjob_perform(site.seen.append, "a job")
        site.app.ended(uid)
        return {"seen": list(site.seen)}

    assert site.does(controller).json == {"seen": ["a job"]}


def test_with_repoze_tm_around_the_application_a_job_belongs_to_its_transaction(make_site):
    """That middleware begins before TurboGears and commits after the body has been sent.

    No row here: TurboGears removes the session before that commit.
    """
    site = make_site()

    def body():
        asyncjob_perform(site.seen.append, "body")
        yield b"sent"

    def controller():
        asyncjob_perform(site.seen.append, "controller")
        return body()

    transaction.begin()
    answer = site.does(controller, "/text", extra_environ={"repoze.tm.active": "1"})
    assert answer.body == b"sent"
    waiting = site.app.queue.backend.waiting()
    transaction.commit()

    assert waiting == 0
    assert site.ran() == ["controller", "body"]


def test_with_repoze_tm_around_the_application_its_abort_drops_the_jobs(make_site):
    site = make_site()

    transaction.begin()
    site.does(
        lambda: {"uid": asyncjob_perform(site.seen.append, "a job")},
        extra_environ={"repoze.tm.active": "1"},
    )
    transaction.abort()

    assert site.ran() == []


def test_outside_a_request_a_job_runs_at_once(site):
    uid = asyncjob_perform(site.seen.append, "script")

    assert site.app.ended(uid).status is TaskResultStatus.SUCCESSFUL


def test_outside_a_request_an_open_transaction_holds_no_job_back(site):
    site.model.has(1)  # a query begins one, which nobody will commit
    try:
        uid = asyncjob_perform(site.seen.append, "script")

        assert site.app.ended(uid).status is TaskResultStatus.SUCCESSFUL
    finally:
        transaction.abort()


def test_thread_of_a_controller_enqueues_at_once(site):
    """It has a transaction of its own, which is nobody's; the request's may fail."""
    uids = []

    def controller():
        thread = threading.Thread(
            target=lambda: uids.append(site.app.queue.perform(site.seen.append, "thread"))
        )
        thread.start()
        thread.join()
        raise LookupError

    with pytest.raises(LookupError):
        site.does(controller)

    assert site.app.ended(uids[0]).status is TaskResultStatus.SUCCESSFUL


@pytest.fixture
def clean_thread():
    """Take what TurboGears' debugger leaves on the thread away from later tests."""
    yield
    for proxy in (tg.config, tg.request_local.context):
        while proxy._object_stack():
            proxy._pop_object()


def test_failed_request_in_debug_mode_leaves_no_managed_thread_behind(make_site, clean_thread):
    """TurboGears leaves its context on the thread there, for the debugger."""
    site = make_site(debug=True)

    def controller():
        raise LookupError

    assert site.does(controller, extra_environ={"REMOTE_USER": "ann"}).status_int == 500
    assert tg.request_local.context._object_stack()
    uid = asyncjob_perform(site.seen.append, "script")

    assert site.app.ended(uid).status is TaskResultStatus.SUCCESSFUL
    assert site.app.ended(uid).enqueued_by is None


@pytest.fixture
def explicit_transactions():
    """The mode in which nothing but a ``begin()`` begins a transaction."""
    transaction.abort()
    transaction.manager.manager.explicit = True  # this thread's; the package documents no other way
    yield
    transaction.manager.manager.explicit = False


def test_application_that_begins_its_transactions_explicitly(explicit_transactions, site):
    def controller(fails=None):
        site.add_and_perform(fails or "a")
        if fails:
            transaction.doom()

    assert site.does(controller, "/?fails=1").status_int == 200
    assert site.does(controller).status_int == 200
    uid = asyncjob_perform(site.seen.append, "script")

    assert site.app.ended(uid).status is TaskResultStatus.SUCCESSFUL
    assert site.seen == [("a", True), "script"]


def test_request_served_inside_somebody_s_in_transaction_ends_well(site):
    """A test of an application, say, that sends a request from such a block."""
    with site.app.queue.in_transaction():
        assert site.does(lambda: {"uid": site.add_and_perform("a")}).status_int == 200
    transaction.abort()

    assert site.ran() == [("a", True)]


def test_requests_of_many_threads_do_not_mix_up_their_transactions(site):
    """Every second one fails, and only its own jobs are dropped."""
    at_once = threading.Barrier(4, timeout=10)

    def controller(name):
        at_once.wait()
        asyncjob_perform(site.seen.append, name)
        at_once.wait()
        if name.endswith(("1", "3")):
            transaction.doom()

    def ask(thread):
        for number in range(25):
            assert site.app.get(f"/?name={number}-{thread}").status_int == 200

    site.app.root.action = controller
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(site.ran()) == sorted(f"{n}-{thread}" for n in range(25) for thread in (0, 2))


# -- jobs that enqueue jobs


def test_nested_job_begins_after_the_commit_of_the_job_that_enqueued_it(make_site):
    site = make_site(ini={"asyncjob.threads": "2"})
    nested = []
    began = threading.Event()

    def inner(item_id):
        began.set()
        return site.model.has(item_id)

    def outer():
        nested.append(asyncjob_perform(inner, site.model.add("a")))
        # another thread is free to run it, and must not
        return began.wait(0.05)

    uid = asyncjob_perform(outer)

    assert site.app.ended(uid).return_value is False
    assert site.app.ended(nested[0]).return_value is True


def test_nested_job_is_dropped_if_the_job_that_enqueued_it_fails(site):
    nested = []

    def outer():
        nested.append(site.add_and_perform("a"))
        raise LookupError

    uid = asyncjob_perform(outer)

    assert site.app.ended(uid).status is TaskResultStatus.FAILED
    assert site.ran() == []
    with pytest.raises(UnknownJob):
        site.app.queue.result(nested[0])


def test_nested_job_of_a_retried_job_is_enqueued_once(site):
    attempts = []

    @task(max_attempts=3, backoff=0)
    def outer():
        attempts.append(site.add_and_perform("a"))
        if len(attempts) < 3:
            raise LookupError

    assert site.app.ended(asyncjob_perform(outer)).attempts == 3
    assert site.ran() == [("a", True)]


# -- what the enqueuing request may ask


def test_progress_in_the_enqueuing_request_is_that_of_a_job_not_started(site):
    def controller():
        uid = site.add_and_perform("a")
        return {"uid": uid, "progress": asyncjob_get_progress(uid)}

    answer = site.does(controller).json

    assert answer["progress"] == [-1, None]
    site.ran()
    assert site.app.queue.progress(answer["uid"]) is None


def test_result_in_the_enqueuing_request_is_ready_and_unknown_elsewhere(site):
    elsewhere = []

    def ask(uid):
        with pytest.raises(UnknownJob):
            site.app.queue.result(uid)
        elsewhere.append(site.app.queue.progress(uid))

    def controller():
        uid = site.add_and_perform("a")
        thread = threading.Thread(target=ask, args=(uid,))
        thread.start()
        thread.join()
        return {"status": asyncjob_result(uid).status}

    assert site.does(controller).json == {"status": "READY"}
    assert elsewhere == [None]
    site.ran()


def test_waiting_in_the_enqueuing_request_is_refused_at_once(site):
    errors = []

    def controller():
        result = asyncjob_result(site.add_and_perform("a"))
        for timeout in (None, 10):
            with pytest.raises(NotCommitted, match="begins only after its commit") as raised:
                result.wait(timeout)
            errors.append(raised.value)

    assert site.does(controller).status_int == 200

    assert len(errors) == 2
    assert site.ran() == [("a", True)]


def test_waiting_after_a_commit_in_the_middle_works(site):
    def controller():
        result = asyncjob_result(site.add_and_perform("a"))
        transaction.commit()
        return {"status": result.wait(10).status}

    assert site.does(controller).json == {"status": "SUCCESSFUL"}


def test_job_cancelled_in_the_enqueuing_request_never_exists(site):
    def controller():
        uid = site.add_and_perform("a")
        cancelled = asyncjob_result(uid).cancel()
        return {"uid": uid, "cancelled": cancelled, "progress": asyncjob_get_progress(uid)}

    answer = site.does(controller).json

    assert answer["cancelled"] is True
    assert answer["progress"] is None
    assert site.ran() == []
    with pytest.raises(UnknownJob):
        site.app.queue.result(answer["uid"])


def test_controller_is_in_no_job(site):
    assert site.does(lambda: {"uid": asyncjob_running_uid()}).json == {"uid": None}


def test_next_request_sees_the_progress_of_a_running_job(site, gate):
    def job():
        asyncjob_set_progress(3, {"of": "five"})
        gate.enter()

    uid = site.does(lambda: {"uid": asyncjob_perform(job)}).json["uid"]
    gate.wait_for()

    assert site.does(lambda: {"progress": asyncjob_get_progress(uid)}).json == {
        "progress": [3, {"of": "five"}]
    }
    gate.open()
    site.ran()
    assert site.does(lambda: {"progress": asyncjob_get_progress(uid)}).json == {"progress": None}


# -- the session


def test_timed_query_finds_the_row_at_its_first_look(site):
    looks = []

    def job(item_id):
        session, item = site.model.DBSession, site.model.Item
        # Engine events count the statements that really went to the database.
        query = asyncjob_timed_query(session.query(item).filter_by(id=item_id), retries=1)
        return query.first().name

    def count(_connection, _cursor, statement, *_rest):
        if statement.startswith("SELECT"):
            looks.append(statement)

    event.listen(site.model.engine, "before_cursor_execute", count)
    uid = site.does(lambda: {"uid": asyncjob_perform(job, site.model.add("a"))}).json["uid"]

    assert site.app.ended(uid).return_value == "a"
    assert len(looks) == 2  # the look, and first()


def test_failed_job_leaves_no_row_and_a_good_one_does(site):
    def good():
        site.model.add("good")

    def bad():
        site.model.add("bad")
        raise LookupError

    site.does(lambda: {"uids": [asyncjob_perform(bad), asyncjob_perform(good)]})
    site.ran()

    assert site.model.committed() == ["good"]


def test_jobs_leave_no_connection_checked_out(site):
    for name in "abc":
        site.does(lambda name=name: {"uid": site.add_and_perform(name)})

    assert len(site.ran()) == 3
    assert site.model.engine.pool.checkedout() == 0
