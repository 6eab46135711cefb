"""Every way to give a TurboGears application its queue, and what goes wrong is said loudly."""

from __future__ import annotations

import logging
import threading
import types
from datetime import datetime

import pytest
import tg
import transaction
from tg import (
    AppConfig,
    FullStackApplicationConfigurator,
    MinimalApplicationConfigurator,
)
from tg.configurator.components.sqlalchemy import SQLAlchemyConfigurationComponent
from tg.configurator.components.transactions import TransactionManagerConfigurationComponent
from tg.util.webtest import test_context
from tgext.pluggable import plug

from tgapps import PLAIN, Globals, Model, Root, applications, globals_with, serve
from tgext.asyncjob import (
    ConfigError,
    JobQueue,
    TaskResultStatus,
    UnknownJob,
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_set_progress,
    plugme,
    start_async_worker,
    task,
)
from tgext.asyncjob.errors import QueueClosed


@pytest.fixture
def make_app(tmp_path):
    with applications(tmp_path) as make:
        yield make


def threads():
    """The library's threads in this process."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("asyncjob")]


def assert_works(app):
    """Jobs run with the commit of their request, and not without it."""
    seen = []

    def controller(fails=None):
        asyncjob_perform(seen.append, fails or "a job")
        if fails:
            transaction.doom()

    assert app.does(controller, "/?fails=1").status_int == 200
    assert app.does(controller).status_int == 200
    app.run_all()
    assert seen == ["a job"]


# -- start_async_worker


def test_called_in_globals_it_attaches_a_queue_and_returns_it(make_app):
    app = make_app(app_globals=globals_with())

    assert isinstance(app.queue, JobQueue)
    assert app.conf["tg.app_globals"].returned is app.queue
    assert_works(app)


def test_called_in_globals_of_a_derived_class(make_app):
    class Derived(Globals):
        def __init__(self):
            super().__init__()
            self.more = 1

    app = make_app(app_globals=Derived)

    assert app.conf["tg.app_globals"].more == 1
    assert_works(app)


def test_given_the_globals_object(make_app):
    class Given:
        def __init__(self):
            start_async_worker(app_globals=self)

    assert_works(make_app(app_globals=Given))


def test_given_the_globals_object_from_a_function_of_its_own(make_app):
    def set_up(app_globals):
        return start_async_worker(app_globals)

    class Given:
        def __init__(self):
            set_up(self)

    assert_works(make_app(app_globals=Given))


def test_called_once_the_application_is_configured_it_finds_the_globals_object(make_app):
    made = []

    def configured(_configurator, _conf):
        made.append(start_async_worker())

    tg.hooks.register("config_setup", configured)
    try:
        app = make_app(app_globals=None)
    finally:
        tg.hooks.disconnect("config_setup", configured)

    assert made == [app.queue]
    assert_works(app)


def test_called_after_the_application_was_made_it_works_or_says_so(make_app):
    """TurboGears has taken its wrappers by then, and its hooks have been called."""
    app = make_app(app_globals=None)
    try:
        start_async_worker()
    except ConfigError:
        return
    assert_works(app)


def test_called_where_there_is_no_application_it_says_where_to_call_it(monkeypatch):
    monkeypatch.setattr(
        "tgext.asyncjob.turbogears.plug.tg", types.SimpleNamespace(config=tg.config)
    )
    tg.config._push_object({})
    try:
        with pytest.raises(ConfigError, match=r"expected to be called in Globals.__init__"):
            start_async_worker()
    finally:
        tg.config._pop_object()


def test_called_twice_there_is_one_queue(make_app):
    class Twice:
        def __init__(self):
            self.returned = [start_async_worker(), start_async_worker(self)]

    app = make_app(app_globals=Twice)

    assert app.conf["tg.app_globals"].returned == [app.queue, app.queue]
    assert_works(app)


def test_application_made_on_a_thread_with_another_one_s_context_is_not_mixed_up_with_it(make_app):
    """TurboGears leaves that of a failed request on the thread where debug is true."""
    other = make_app(ini={"asyncjob.threads": "3"})
    tg.config._push_object(other.conf)
    try:
        app = make_app()
    finally:
        tg.config._pop_object()

    assert app.queue.options.threads == 1
    assert_works(app)


# -- plugging


def test_plugged_into_a_full_stack_application(make_app):
    configurator = FullStackApplicationConfigurator()
    plugged = plugme(configurator, {"threads": 1, "appid": "jobs", "plug_bootstrap": False})

    app = make_app(configurator=configurator, app_globals=None)

    assert plugged["appid"]
    assert_works(app)


def test_plugged_twice_and_started_too_there_is_one_queue(make_app):
    configurator = FullStackApplicationConfigurator()
    plugme(configurator)
    plugme(configurator)

    app = make_app(configurator=configurator, app_globals=globals_with())

    assert app.conf["tg.app_globals"].returned is app.queue
    assert_works(app)


def test_plugged_by_tgext_pluggable(make_app):
    configurator = FullStackApplicationConfigurator()
    plug(configurator, "tgext.asyncjob", max_queued=77)

    app = make_app(configurator=configurator, app_globals=None)

    assert app.queue.options.max_queued == 77
    assert_works(app)


def test_plugged_by_tgext_pluggable_and_started_too(make_app):
    configurator = FullStackApplicationConfigurator()
    plug(configurator, "tgext.asyncjob")

    app = make_app(configurator=configurator, app_globals=globals_with())

    assert app.conf["tg.app_globals"].returned is app.queue
    assert_works(app)


def test_plugged_with_an_app_globals_object_and_a_tracker(make_app):
    class Other: ...

    other, tracker = Other(), Tracker()
    configurator = FullStackApplicationConfigurator()
    plugme(configurator, {"app_globals": other, "progress_tracker": tracker})

    make_app(configurator=configurator, app_globals=None)
    try:
        assert isinstance(other.asyncjob_queue, JobQueue)
    finally:
        other.asyncjob_queue.close()


@pytest.mark.filterwarnings("ignore:Using AppConfig:DeprecationWarning")
@pytest.mark.parametrize("way", ["plugged", "started"])
def test_old_app_config(tmp_path, way):
    model = Model(tmp_path / "old.db")
    base_config = AppConfig(minimal=False, root_controller=Root())
    settings = {
        **PLAIN,
        "use_sqlalchemy": True,
        "model": model.as_module(),
        "DBSession": model.DBSession,
    }
    if way == "plugged":
        plugme(base_config, {"max_queued": 77})
    else:
        settings["app_globals"] = globals_with(max_queued=77)
    for name, value in settings.items():
        base_config[name] = value
    app = serve(lambda: base_config.make_wsgi_app(**{"sqlalchemy.url": model.url}), model)
    try:
        assert app.queue.options.max_queued == 77
        assert_works(app)
    finally:
        app.close()


# -- MinimalApplicationConfigurator


def warnings_of(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("tgext.asyncjob")
    ]


@pytest.mark.parametrize("way", ["plugged", "started"])
def test_minimal_application_with_the_transaction_component(make_app, caplog, way):
    configurator = MinimalApplicationConfigurator()
    configurator.register(SQLAlchemyConfigurationComponent)
    configurator.register(TransactionManagerConfigurationComponent)
    if way == "plugged":
        plugme(configurator)
    app = make_app(
        configurator=configurator, app_globals=None if way == "plugged" else globals_with()
    )

    assert warnings_of(caplog) == []
    assert_works(app)


@pytest.mark.parametrize("way", ["plugged", "started"])
def test_minimal_application_without_the_transaction_component_says_so(make_app, caplog, way):
    configurator = MinimalApplicationConfigurator()
    configurator.register(SQLAlchemyConfigurationComponent)
    if way == "plugged":
        plugme(configurator)
    app = make_app(
        configurator=configurator, app_globals=None if way == "plugged" else globals_with()
    )

    [warning] = warnings_of(caplog)
    assert "nothing commits what its requests write" in warning
    assert "configurator.register(TransactionManagerConfigurationComponent)" in warning
    uid = app.does(lambda: {"uid": asyncjob_perform(app.model.add, "a job's")}).json["uid"]
    assert app.ended(uid).status is TaskResultStatus.SUCCESSFUL
    assert app.model.committed() == ["a job's"]


def test_switched_off_transaction_manager_is_told_as_well(make_app, caplog):
    make_app(ini={"tm.enabled": "false"})

    assert len(warnings_of(caplog)) == 1


def test_application_without_a_database_needs_no_transaction_manager(make_app, caplog):
    app = make_app(database=False, configurator=MinimalApplicationConfigurator())

    uid = app.does(lambda: {"uid": asyncjob_perform(int, "7")}).json["uid"]

    assert app.ended(uid).return_value == 7
    assert warnings_of(caplog) == []


# -- options


def test_options_of_the_ini_file_are_text(make_app):
    app = make_app(
        ini={
            "asyncjob.threads": "3",
            "asyncjob.queues": "mail, default",
            "asyncjob.retention": "60.5",
            "asyncjob.create_tables": "false",
            "asyncjob.max_queued": "",
        }
    )

    options = app.queue.options
    assert (options.threads, options.queues, options.retention) == (3, ("mail", "default"), 60.5)
    assert (options.create_tables, options.max_queued) == (False, None)


@pytest.mark.parametrize("way", ["plugged", "started"])
def test_ini_file_wins_over_keywords(make_app, way):
    configurator, app_globals = FullStackApplicationConfigurator(), None
    if way == "plugged":
        plugme(configurator, {"threads": 2, "max_queued": 9})
    else:
        app_globals = globals_with(threads=2, max_queued=9)

    app = make_app(
        configurator=configurator, app_globals=app_globals, ini={"asyncjob.threads": "3"}
    )

    assert (app.queue.options.threads, app.queue.options.max_queued) == (3, 9)


def test_blueprint_may_hold_options_too(make_app):
    app = make_app(**{"asyncjob.threads": 2})

    assert app.queue.options.threads == 2


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        (
            {"asyncjob.thraeds": "2"},
            "unknown option asyncjob.thraeds; did you mean asyncjob.threads?",
        ),
        (
            {"asyncjob_threads": "2"},
            "got 'asyncjob_threads', which nothing reads; did you mean asyncjob.threads?",
        ),
        ({"asyncjob.threads": "two"}, "asyncjob.threads: expected a whole number, got 'two'"),
        ({"asyncjob.threads": "-1"}, "asyncjob.threads: expected 0 or more, got '-1'"),
    ],
)
@pytest.mark.parametrize("way", ["plugged", "started"])
def test_mistake_in_the_ini_file_stops_the_application(make_app, ini, message, way):
    configurator = FullStackApplicationConfigurator()
    if way == "plugged":
        plugme(configurator)

    with pytest.raises(ConfigError) as raised:
        make_app(
            configurator=configurator,
            app_globals=None if way == "plugged" else globals_with(),
            ini=ini,
        )

    assert message in str(raised.value)


def test_options_in_a_section_that_the_application_does_not_get_are_warned_of(
    make_app, tmp_path, caplog
):
    ini = tmp_path / "development.ini"
    ini.write_text(
        "[DEFAULT]\nasyncjob.lease = 30\n[app:main]\nasyncjob.threads = 2\n"
        "[server:main]\nthreads = 8\nasyncjob.threads = 3\n"
        "[asyncjob]\nbackend = sql\n[logger_asyncjob]\nqualname = tgext.asyncjob\n"
        "[other]\nasyncjob_max_queued = 5\n"
    )

    make_app(ini={"__file__": str(ini), "asyncjob.threads": "2"})

    assert [warning.partition(": ")[2].partition(";")[0] for warning in warnings_of(caplog)] == [
        "asyncjob.threads in [server:main] is not read",
        "backend in [asyncjob] is not read",
        "asyncjob_max_queued in [other] is not read",
    ]
    assert "write asyncjob.backend in the section of the application" in caplog.text


@pytest.mark.parametrize("content", [b"no section", b"[app:main]\n\xff\xfe = 1\n", None])
def test_ini_file_that_cannot_be_read_is_the_business_of_its_loader(make_app, tmp_path, content):
    ini = tmp_path / "development.ini"
    if content is not None:
        ini.write_bytes(content)

    assert_works(make_app(ini={"__file__": str(ini)}))


def test_mistake_in_a_keyword_stops_the_application(make_app):
    with pytest.raises(ConfigError, match=r"did you mean asyncjob\.threads"):
        make_app(app_globals=globals_with(thread=2))

    configurator = FullStackApplicationConfigurator()
    plugme(configurator, {"thread": 2})
    with pytest.raises(ConfigError, match=r"did you mean asyncjob\.threads"):
        make_app(configurator=configurator, app_globals=None)


class Tracker:
    """A progress tracker of the application's own."""

    def __init__(self):
        self.states = {}
        self.calls = []

    def track(self, uid):
        self.calls.append("track")
        self.states[uid] = (-1, None)

    def set_progress(self, uid, value, data):
        self.calls.append("set_progress")
        self.states[uid] = (value, data)

    def get_progress(self, uid):
        return self.states.get(uid)

    def remove(self, uid):
        self.calls.append("remove")
        del self.states[uid]


@pytest.mark.parametrize("way", ["plugged", "started"])
def test_progress_tracker_of_one_s_own_keeps_the_progress(make_app, gate, way):
    tracker = Tracker()
    configurator, app_globals = FullStackApplicationConfigurator(), None
    if way == "plugged":
        plugme(configurator, {"progress_tracker": tracker})
    else:
        app_globals = globals_with(progress_tracker=tracker)
    app = make_app(configurator=configurator, app_globals=app_globals)

    def job():
        asyncjob_set_progress(3, "of five")
        gate.enter()

    uid = app.does(lambda: {"uid": asyncjob_perform(job)}).json["uid"]
    gate.wait_for()

    ask = {"progress": [3, "of five"]}
    assert app.does(lambda: {"progress": asyncjob_get_progress(uid)}).json == ask
    gate.open()
    app.ended(uid)
    app.run_all()  # with a job that is tracked as well
    assert tracker.calls[:2] == ["track", "set_progress"]
    assert sorted(tracker.calls[2:]) in (["remove", "track"], ["remove", "remove", "track"])
    assert app.queue.progress(uid) is None


# -- several applications


def test_two_applications_do_not_see_each_other_s_jobs(make_app):
    one, two = make_app(), make_app()
    uid = one.does(lambda: {"uid": asyncjob_perform(int, "7")}).json["uid"]

    def ask():
        for question in (asyncjob_result, asyncjob_get_progress):
            with pytest.raises(UnknownJob):
                question(uid)

    assert two.does(ask).status_int == 200
    assert one.ended(uid).return_value == 7
    assert one.does(lambda: {"status": asyncjob_result(uid).status}).json == {
        "status": "SUCCESSFUL"
    }


def test_two_applications_run_their_jobs_in_their_own_database(make_app):
    one, two = make_app(), make_app()

    for app, name in [(one, "one"), (two, "two")]:
        uid = app.does(lambda app=app, name=name: {"uid": asyncjob_perform(app.model.add, name)})
        app.ended(uid.json["uid"])

    assert (one.model.committed(), two.model.committed()) == (["one"], ["two"])


def test_two_applications_of_one_configurator_have_a_queue_each(make_app, tmp_path):
    configurator = FullStackApplicationConfigurator()
    plugme(configurator)
    one = make_app(configurator=configurator, app_globals=Globals)
    two = serve(lambda: configurator.make_wsgi_app({}, {}))
    try:
        assert one.queue is not two.queue
        assert_works(one)
    finally:
        two.close()


def test_script_with_two_applications_must_say_which(make_app):
    one, _two = make_app(), make_app()

    with pytest.raises(ConfigError, match="2 are open in this process"):
        asyncjob_perform(int)
    with one.queue.as_current():
        uid = asyncjob_perform(int)

    assert one.ended(uid).return_value == 0


# -- what a controller returns


@task
def seven():
    return 7


@task
def no_seven():
    raise ValueError("seven is out")


@pytest.mark.parametrize("shape", ["a result", "a dict"])
def test_exposed_json_may_return_a_result(make_app, shape):
    app = make_app()

    def controller():
        result = no_seven.enqueue()
        return result if shape == "a result" else {"job": result}

    def state(uid):
        result = asyncjob_result(uid)
        return result if shape == "a result" else {"job": result}

    answer = app.does(controller)
    assert answer.content_type == "application/json"
    enqueued = answer.json if shape == "a result" else answer.json["job"]
    app.ended(enqueued["id"])
    ended = app.does(state, f"/?uid={enqueued['id']}").json
    ended = ended if shape == "a result" else ended["job"]

    assert (enqueued["status"], enqueued["error"]) == ("READY", None)
    assert enqueued["name"] == f"{__name__}.no_seven"
    assert enqueued["progress"] == {"value": -1, "data": None, "total": None}
    assert ended["status"] == "FAILED"
    assert ended["error"]["message"] == "seven is out"
    assert "ValueError" in str(ended["error"])
    assert "Traceback" not in str(ended)
    assert "args" not in ended
    times = [ended[name] for name in ("enqueued_at", "started_at", "finished_at")]
    assert times == sorted(times, key=datetime.fromisoformat)


# -- warnings


def test_several_processes_on_the_memory_backend_are_told_once(make_app, caplog):
    app = make_app()
    several = {"wsgi.multiprocess": True}

    app.does(dict, extra_environ=several)  # enqueues nothing: nothing to say
    assert warnings_of(caplog) == []
    app.does(lambda: {"uid": asyncjob_perform(int)})  # one process
    assert warnings_of(caplog) == []
    for _ in range(2):
        app.does(lambda: {"uid": asyncjob_perform(int)}, extra_environ=several)
    app.run_all()

    [warning] = warnings_of(caplog)
    assert "asyncjob.backend = sql" in warning


def test_threads_0_is_told_once_by_the_first_job(make_app, caplog):
    app = make_app(ini={"asyncjob.threads": "0"})
    assert warnings_of(caplog) == []

    for _ in range(2):
        app.does(lambda: {"uid": asyncjob_perform(int)})

    [warning] = warnings_of(caplog)
    assert "threads is 0" in warning
    assert threads() == []
    assert app.queue.run_pending() == 2


def test_threads_0_is_not_told_to_an_application_that_enqueues_nothing(make_app, caplog):
    app = make_app(ini={"asyncjob.threads": "0"})

    app.does(dict)

    assert warnings_of(caplog) == []


# -- threads


def test_no_thread_before_the_first_request(make_app):
    app = make_app()
    assert threads() == []

    app.does(dict)

    assert len(threads()) == 2  # one for jobs, one that watches it


def test_no_thread_before_the_first_job_of_a_script(make_app):
    app = make_app(ini={"asyncjob.threads": "3"})
    assert threads() == []

    uid = asyncjob_perform(int)

    assert len(threads()) == 4
    app.ended(uid)


def test_no_thread_and_no_lost_job_in_a_process_that_only_sets_up(tmp_path):
    """What ``gearbox setup-app`` does: configuration, and no WSGI application."""
    model = Model(tmp_path / "set_up.db")
    configurator = FullStackApplicationConfigurator()
    settings = {"root_controller": Root(), "app_globals": Globals, "sqlalchemy.url": model.url}
    configurator.update_blueprint(
        {**PLAIN, **settings, "use_sqlalchemy": True, "model": model.as_module()}
    )
    conf = configurator.configure({}, {})
    configurator.setup(conf)
    queue = conf["tg.app_globals"].asyncjob_queue
    try:
        uid = asyncjob_perform(int, "7")  # in bootstrap.py, say

        assert threads() == []
        assert queue.result(uid).status is TaskResultStatus.READY
        assert queue.run_pending() == 1
    finally:
        queue.close()
        model.close()


# -- another object than the configured one, and applications beside each other


def test_plugged_with_another_object_the_application_s_jobs_run(make_app):
    """As 0.3.1's README has it: a module of the name."""
    other = types.ModuleType("lib.app_globals")
    configurator = FullStackApplicationConfigurator()
    plugme(configurator, {"app_globals": other})

    app = make_app(configurator=configurator, app_globals=None)

    assert other.asyncjob_queue is app.queue
    assert_works(app)


def test_plugged_with_an_object_of_two_applications_each_has_its_own_queue(make_app):
    other, apps = types.ModuleType("lib.app_globals"), []
    for _ in range(2):
        configurator = FullStackApplicationConfigurator()
        plugme(configurator, {"app_globals": other})
        apps.append(make_app(configurator=configurator, app_globals=None))

    assert apps[0].queue is not apps[1].queue
    for app in apps:
        assert_works(app)


def test_given_another_object_in_globals_the_application_s_jobs_run(make_app):
    other = types.ModuleType("lib.app_globals")

    class Given:
        def __init__(self):
            start_async_worker(other)

    app = make_app(app_globals=Given)

    assert other.asyncjob_queue is app.queue
    assert_works(app)


def test_given_another_object_before_the_application_is_made_it_is_refused_at_its_start(make_app):
    tg.config.push_process_config({})  # as at the start of a process
    try:
        queue = start_async_worker(types.ModuleType("lib.app_globals"))
    finally:
        tg.config.pop_process_config()

    with pytest.raises(ConfigError, match="expected the Globals object of an application"):
        make_app(app_globals=None)
    with pytest.raises(QueueClosed):
        queue.perform(len, "ab")


def test_given_another_object_after_the_application_was_made_it_is_refused(make_app):
    make_app(app_globals=None)

    with pytest.raises(ConfigError, match="expected to be called before the application is made"):
        start_async_worker(types.ModuleType("lib.app_globals"))


def test_context_of_a_test_has_the_queue_of_its_application(make_app):
    for app in [make_app(), make_app()]:
        with test_context(app.web):
            uid = asyncjob_perform(len, "ab")

        assert app.ended(uid).status is TaskResultStatus.SUCCESSFUL


def test_context_of_an_application_without_a_queue_has_none(make_app):
    make_app()
    bare = make_app(app_globals=None)

    with (
        test_context(bare.web),
        pytest.raises(ConfigError, match="the application of this thread's context has none"),
    ):
        asyncjob_perform(len, "ab")


def test_queue_that_is_named_wins_in_the_context_of_another_application(make_app):
    app, other = make_app(), make_app()

    with test_context(other.web), app.queue.as_current():
        uid = asyncjob_perform(len, "ab")

    assert app.ended(uid).status is TaskResultStatus.SUCCESSFUL


def test_queue_of_one_s_own_is_told_from_that_of_the_context(make_app):
    app = make_app()
    with JobQueue(threads=0) as own:
        with test_context(app.web):
            uid = asyncjob_perform(len, "ab")
        assert own.backend.waiting() == 0
    assert app.ended(uid).status is TaskResultStatus.SUCCESSFUL


def test_outside_of_every_context_nobody_chooses_between_two_applications(make_app):
    make_app(), make_app()

    with pytest.raises(ConfigError, match="2 are open in this process"):
        asyncjob_perform(len, "ab")
