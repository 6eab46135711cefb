"""Promise 9: a job feels at home. It runs as in the request that enqueued it, but nobody is
logged in.

The application of these tests is a real package, with translations and templates, so that
TurboGears finds them where it finds those of a project.
"""

from __future__ import annotations

import importlib
import logging
import struct
import sys

import pytest
import tg
import transaction
from sqlalchemy import event
from tg.i18n import lazy_ugettext, ugettext

from tgapps import applications, globals_with
from tgext.asyncjob import JobQueue, asyncjob_perform, task
from tgext.asyncjob.turbogears.job_context import line_of

log = logging.getLogger("application")

ITALIAN = {"accept_language": "it"}


def compiled_catalogue(messages: dict[str, str]) -> bytes:
    """A .mo file, as msgfmt makes it."""
    messages = {"": "Content-Type: text/plain; charset=UTF-8\n", **messages}
    keys = sorted(messages)
    texts = [text.encode() for text in (*keys, *(messages[key] for key in keys))]
    table, data, start = b"", b"", 28 + 16 * len(keys)
    for text in texts:
        table += struct.pack("<II", len(text), start + len(data))
        data += text + b"\0"
    count = len(keys)
    header = struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    return header + table + data


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with an Italian catalogue and a template."""
    name = "homely"
    root = tmp_path / name
    catalogue = root / "i18n" / "it" / "LC_MESSAGES" / f"{name}.mo"
    catalogue.parent.mkdir(parents=True)
    catalogue.write_bytes(compiled_catalogue({"Your album is ready": "Il tuo album è pronto"}))
    (root / "__init__.py").write_text("")
    templates = root / "templates"
    templates.mkdir()
    (templates / "__init__.py").write_text("")
    (templates / "mail.xhtml").write_text(
        "<p><b>${_('Your album is ready')}</b> ${name} ${tg.url('/album')}</p>"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module(name)
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


@pytest.fixture
def make_app(tmp_path):
    with applications(tmp_path) as make:
        yield make


@pytest.fixture
def make_home(make_app, package):
    """Makes a packaged application with translations and kajiki."""

    def make(**options):
        return make_app(
            **{
                "package": package,
                "i18n.enabled": True,
                "renderers": ["json", "kajiki"],
                "templating.kajiki.strip_text": True,
                **options,
            }
        )

    return make


@pytest.fixture
def home(make_home):
    return make_home()


def outcome(app, function, *args, **request):
    """Enqueue a job in a request and return what it returned."""
    path = request.pop("path", "/")
    environ = request.pop("environ", {})
    answer = app.does(
        lambda: {"uid": asyncjob_perform(function, *args)},
        path,
        headers={name.replace("_", "-"): value for name, value in request.items()},
        extra_environ=environ,
    )
    result = app.ended(answer.json["uid"])
    assert not result.errors, result.errors[-1].traceback
    return result.return_value


def has_context(name):
    """Whether this thread has a ``tg.config``, or a ``tg.request`` and the like, of its own."""
    return bool(getattr(tg.request_local, name)._object_stack())


# -- configuration


def test_job_has_the_application_s_config_and_globals(make_home):
    app, other = make_home(**{"which": "first"}), make_home(**{"which": "second"})

    def job():
        return tg.config["which"], tg.app_globals.asyncjob_queue, tg.config["tg.app_globals"]

    for made, which in [(app, "first"), (other, "second")]:
        assert outcome(made, job) == (which, made.queue, made.conf["tg.app_globals"])


def test_job_knows_the_name_of_its_package(home):
    assert outcome(home, lambda: tg.config["package_name"]) == "homely"


# -- address


def address():
    return tg.url("/album", params={"page": 1}), tg.url("/album", qualified=True)


def test_url_in_a_job_is_that_of_the_request_s_host(home):
    environ = {"HTTP_HOST": "shop.example"}

    assert outcome(home, address, environ=environ) == (
        "/album?page=1",
        "http://shop.example/album",
    )


def test_job_in_a_process_of_its_own_feels_at_home_too(home):
    apart = outcome(home, task(executor="process")(address), HTTP_HOST="shop.example")

    assert apart == outcome(home, address, HTTP_HOST="shop.example")


def test_url_in_a_job_minds_script_name_scheme_and_port(home):
    environ = {
        "HTTP_HOST": "shop.example:8443",
        "wsgi.url_scheme": "https",
        "SCRIPT_NAME": "/photos",
    }

    assert outcome(home, address, environ=environ) == (
        "/photos/album?page=1",
        "https://shop.example:8443/photos/album",
    )


def test_url_in_a_job_minds_a_script_name_that_needs_quoting(home):
    environ = {"HTTP_HOST": "shop.example", "SCRIPT_NAME": "/my photos"}

    in_request = home.does(lambda: {"url": tg.url("/album")}, extra_environ=environ).json["url"]

    assert outcome(home, lambda: tg.url("/album"), environ=environ) == in_request


def test_url_in_a_job_begins_with_base_url_where_that_is_set(make_home):
    home = make_home(ini={"asyncjob.base_url": "https://example.org/base"})

    assert outcome(home, address) == ("/base/album?page=1", "https://example.org/base/album")


def test_url_in_a_job_is_the_same_in_a_deep_page_with_parameters(home):
    home.root.action = lambda **params: {"uid": asyncjob_perform(lambda: tg.request.path_qs)}

    uid = home.get("/index?a=1").json["uid"]

    assert home.ended(uid).return_value == "/"


def test_job_of_a_script_has_a_context_too(home):
    def job():
        return address(), ugettext("Your album is ready"), tg.request.identity

    assert home.ended(asyncjob_perform(job)).return_value == (
        ("/album?page=1", "http://localhost/album"),
        "Your album is ready",
        None,
    )


def test_job_of_a_script_has_base_url_where_that_is_set(make_home):
    make_home(ini={"asyncjob.base_url": "https://example.org/"})
    uid = asyncjob_perform(lambda: tg.url("/album", qualified=True))

    assert tg.config["tg.app_globals"].asyncjob_queue.result(uid).wait(10).return_value == (
        "https://example.org/album"
    )


# -- user


def by_remote_user():
    return {"REMOTE_USER": "ann"}


def by_repoze_who():
    return {
        "repoze.who.identity": {"repoze.who.userid": "ann"},
        "repoze.what.credentials": {"repoze.what.userid": "ann"},
    }


@pytest.mark.parametrize("environ", [by_remote_user, by_repoze_who])
def test_nobody_is_logged_in_in_a_job_and_the_result_tells_who_asked(home, environ):
    def job():
        return tg.request.identity, tg.request.remote_user

    answer = home.does(lambda: {"uid": asyncjob_perform(job)}, extra_environ=environ())
    result = home.ended(answer.json["uid"])

    assert result.return_value == (None, None)
    assert result.enqueued_by == "ann"


def test_nobody_asked_where_nobody_was_logged_in(home):
    answer = home.does(lambda: {"uid": asyncjob_perform(dict)})

    assert home.ended(answer.json["uid"]).enqueued_by is None
    assert home.ended(asyncjob_perform(dict)).enqueued_by is None


def test_request_id_is_kept_with_the_job(home):
    answer = home.does(
        lambda: {"uid": asyncjob_perform(dict)}, headers={"X-Request-Id": "request 7"}
    )

    kept = home.queue.results.snapshot(answer.json["uid"]).job.context
    assert kept["request_id"] == "request 7"
    home.ended(answer.json["uid"])


def test_method_and_path_of_the_request_are_kept_with_the_job_and_no_query(home):
    answer = home.does(lambda: {"uid": asyncjob_perform(dict)})

    kept = home.queue.results.snapshot(answer.json["uid"]).job.context
    assert kept["request"] == f"GET {answer.request.path_info}"
    assert kept["base_url"] + answer.request.path_info == answer.request.path_url
    home.ended(answer.json["uid"])


@pytest.mark.parametrize(
    ("path", "kept"),
    [("/l\xc3\xb6schen \x00", "/l%C3%B6schen%20%00"), ("/" + 300 * "a", "/" + 199 * "a"), ("", "")],
    ids=["signs", "long", "none"],
)
def test_path_of_the_request_is_kept_as_a_url_has_it(path, kept):
    assert line_of({"REQUEST_METHOD": "POST", "PATH_INFO": path}) == f"POST {kept}"


# -- language


def test_job_speaks_the_language_of_the_request(home):
    lazy = lazy_ugettext("Your album is ready")

    def job():
        return ugettext("Your album is ready"), str(lazy), tg.i18n.get_lang(all=False)

    assert outcome(home, job, **ITALIAN) == (
        "Il tuo album è pronto",
        "Il tuo album è pronto",
        ["it"],
    )
    assert outcome(home, job) == ("Your album is ready", "Your album is ready", [])


@pytest.mark.parametrize("languages", ["de", "de-AT,de;q=0.8", "xx-not-one"])
def test_job_speaks_as_the_request_does_where_the_language_has_no_catalogue(home, languages):
    """Most applications have no catalogue, and every browser asks for a language."""

    def job():
        return ugettext("Your album is ready"), tg.url("/album"), tg.i18n.get_lang()

    request = {"accept_language": languages}
    in_request = home.does(lambda: {"said": job()}, headers={"Accept-Language": languages})

    assert list(outcome(home, job, **request)) == in_request.json["said"]


def test_job_falls_back_on_the_languages_that_the_request_falls_back_on(home):
    request = {"accept_language": "de,it;q=0.5"}

    assert outcome(home, ugettext, "Your album is ready", **request) == "Il tuo album è pronto"


def test_job_speaks_the_language_that_the_controller_chose(home):
    def controller():
        tg.i18n.set_request_lang("it")
        return {"uid": asyncjob_perform(ugettext, "Your album is ready")}

    uid = home.does(controller).json["uid"]

    assert home.ended(uid).return_value == "Il tuo album è pronto"


def test_job_may_choose_a_language_of_its_own_and_the_next_does_not_inherit_it(home):
    def job():
        tg.i18n.set_request_lang("it")
        return ugettext("Your album is ready")

    assert outcome(home, job) == "Il tuo album è pronto"
    assert outcome(home, ugettext, "Your album is ready") == "Your album is ready"


# -- templates


def test_job_renders_a_template_in_the_language_and_under_the_address_of_the_request(home):
    def job():
        return str(tg.render_template({"name": "Ann"}, "kajiki", "homely.templates.mail"))

    environ = {"SCRIPT_NAME": "/photos"}

    page = outcome(home, job, environ=environ, **ITALIAN)

    assert page.endswith("<p><b>Il tuo album è pronto</b>Ann /photos/album</p>")


def test_job_uses_the_template_context_and_the_response(home):
    """Helpers that a controller uses as well set both."""

    def job():
        tg.tmpl_context.title = "Albums"
        tg.response.headers["X-Title"] = "Albums"
        return tg.tmpl_context.title, tg.response.headers["X-Title"]

    assert outcome(home, job) == ("Albums", "Albums")


def test_job_has_no_session_of_a_browser(home):
    assert outcome(home, lambda: bool(tg.session)) is False


# -- the commit


def test_what_the_commit_of_a_job_flushes_is_at_home_too(home):
    """A default or an event of the model runs only then, and asks for tg.url as in a request."""
    texts = []

    def before_insert(_mapper, _connection, _item):
        texts.append((tg.url("/album"), ugettext("Your album is ready")))

    event.listen(home.model.Item, "before_insert", before_insert)

    def job():
        home.model.DBSession.add(home.model.Item(name="flushed by the commit"))

    environ = {"SCRIPT_NAME": "/photos"}
    outcome(home, job, environ=environ, **ITALIAN)

    assert home.model.committed() == ["flushed by the commit"]
    assert texts == [("/photos/album", "Il tuo album è pronto")]


def test_before_commit_hook_of_a_job_is_at_home_too(home):
    texts = []

    def hook():
        texts.append(tg.url("/album"))

    def job():
        transaction.get().addBeforeCommitHook(hook)

    outcome(home, job, environ={"SCRIPT_NAME": "/photos"})

    assert texts == ["/photos/album"]


def test_job_of_a_before_commit_hook_keeps_user_and_language_of_the_request(home):
    uids = []

    def hook():
        uids.append(asyncjob_perform(ugettext, "Your album is ready"))

    home.does(
        lambda: transaction.get().addBeforeCommitHook(hook),
        headers={"Accept-Language": "it"},
        extra_environ={"REMOTE_USER": "ann"},
    )
    result = home.ended(uids[0])

    assert (result.enqueued_by, result.return_value) == ("ann", "Il tuo album è pronto")


def test_job_of_a_streamed_body_keeps_user_and_language_of_the_request(home):
    def body():
        yield asyncjob_perform(ugettext, "Your album is ready").encode()

    answer = home.does(
        body,
        "/text",
        headers={"Accept-Language": "it"},
        extra_environ={"REMOTE_USER": "ann"},
    )
    result = home.ended(answer.text)

    assert (result.enqueued_by, result.return_value) == ("ann", "Il tuo album è pronto")


# -- jobs of jobs


def test_nested_jobs_inherit_user_language_address_and_request_id(home):
    uids = []

    def innermost():
        return ugettext("Your album is ready"), tg.url("/album", qualified=True)

    def inner():
        uids.append(asyncjob_perform(innermost))

    def outer():
        uids.append(asyncjob_perform(inner))

    home.does(
        lambda: {"uid": asyncjob_perform(outer)},
        headers={"Accept-Language": "it", "X-Request-Id": "request 7"},
        extra_environ={"REMOTE_USER": "ann", "HTTP_HOST": "shop.example"},
    )
    home.run_all()
    results = [home.ended(uid) for uid in uids]

    assert [result.enqueued_by for result in results] == ["ann", "ann"]
    assert results[1].return_value == ("Il tuo album è pronto", "http://shop.example/album")
    assert home.queue.results.snapshot(uids[1]).job.context["request_id"] == "request 7"


def test_second_attempt_is_at_home_as_the_first(home):
    texts = []

    @task(max_attempts=2, backoff=0)
    def job():
        texts.append((ugettext("Your album is ready"), tg.url("/album")))
        if len(texts) == 1:
            raise LookupError

    uid = home.does(
        lambda: {"uid": asyncjob_perform(job)},
        headers={"Accept-Language": "it"},
        extra_environ={"SCRIPT_NAME": "/photos"},
    ).json["uid"]

    assert home.ended(uid).attempts == 2
    assert texts == [("Il tuo album è pronto", "/photos/album")] * 2


# -- nothing stays behind


class Watcher:
    """A progress tracker; asked for ``remove`` on the worker's thread, after each job."""

    def __init__(self):
        self.found = []

    def remove(self, uid):
        self.found.append((has_context("config"), has_context("context")))

    def track(self, uid): ...
    def set_progress(self, uid, value, data): ...
    def get_progress(self, uid): ...


def asks_for_nothing():
    pass


def asks_for_everything():
    return address(), ugettext("Your album is ready"), tg.request.identity


def fails_after_asking():
    tg.url("/album")
    raise LookupError


def ends_the_program():
    tg.url("/album")
    raise SystemExit


@pytest.mark.parametrize(
    "job", [asks_for_nothing, asks_for_everything, fails_after_asking, ends_the_program]
)
def test_no_context_stays_on_the_worker_s_thread(make_home, job):
    watcher = Watcher()
    home = make_home(app_globals=globals_with(progress_tracker=watcher))

    uid = home.does(lambda: {"uid": asyncjob_perform(job)}, headers={"Accept-Language": "it"})
    home.ended(uid.json["uid"])
    home.run_all()
    home.queue.close()  # the tracker is told after a job has ended

    assert watcher.found == [(False, False)] * 2


def test_one_job_s_context_is_not_the_next_one_s(home):
    first = home.does(
        lambda: {"uid": asyncjob_perform(address)}, extra_environ={"SCRIPT_NAME": "/photos"}
    ).json["uid"]
    second = asyncjob_perform(address)

    assert home.ended(first).return_value[0] == "/photos/album?page=1"
    assert home.ended(second).return_value[0] == "/album?page=1"


# -- log lines


class Lines(logging.Handler):
    """What an application's own handler writes."""

    def __init__(self):
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.lines = []
        self.jobs = []

    def emit(self, record):
        self.lines.append(self.format(record))
        self.jobs.append(getattr(record, "asyncjob_uid", None))


@pytest.fixture
def lines():
    handler = Lines()
    log.addHandler(handler)
    before, log.level = log.level, logging.INFO
    yield handler
    log.removeHandler(handler)
    log.setLevel(before)


def test_log_lines_of_a_job_carry_its_uid_and_are_kept_with_it(home, lines):
    def job():
        log.info("made %d of %s", 3, "five")
        log.warning("100% sure")
        log.debug("not switched on")

    def controller():
        log.info("in the request")
        return {"uid": asyncjob_perform(job)}

    uid = home.does(controller).json["uid"]
    result = home.ended(uid)

    assert lines.lines == [
        "INFO in the request",
        f"INFO job={uid} made 3 of five",
        f"WARNING job={uid} 100% sure",
    ]
    assert lines.jobs == [None, uid, uid]
    assert result.log == [
        "INFO application: made 3 of five",
        "WARNING application: 100% sure",
    ]


def test_log_lines_of_a_failed_job_are_kept_as_well(home, lines):
    def job():
        log.info("before it failed")
        raise LookupError

    uid = home.does(lambda: {"uid": asyncjob_perform(job)}).json["uid"]

    assert home.ended(uid).log == ["INFO application: before it failed"]


def test_log_lines_of_turbogears_itself_in_a_job_are_the_job_s(home):
    def job():
        logging.getLogger("tg.something").error("from below")

    uid = home.does(lambda: {"uid": asyncjob_perform(job)}).json["uid"]

    assert home.ended(uid).log == ["ERROR tg.something: from below"]


@pytest.mark.parametrize("extra", [{"job": 7}])
def test_log_call_of_a_job_may_have_an_extra_of_its_own(extra):
    with JobQueue(threads=0) as queue:
        result = queue.result(queue.perform(log.warning, "printing", extra=extra))
        queue.run_pending()
        result.refresh()

    assert result.status == "SUCCESSFUL"


def test_lines_say_their_job_once_where_the_factory_was_wrapped_since():
    with JobQueue(threads=0) as queue:
        queue.run_pending()
        inner = logging.getLogRecordFactory()
        logging.setLogRecordFactory(lambda *args, **kwargs: inner(*args, **kwargs))
        try:
            result = queue.result(queue.perform(log.warning, "hello"))
            queue.run_pending()
        finally:
            logging.setLogRecordFactory(inner)
        result.refresh()

    assert result.log == ["WARNING application: hello"]
