"""What an application may get wrong: refused at the earliest moment, with a sentence that helps.

Each test asserts the class, the builtin that one would catch, and the words.
"""

from __future__ import annotations

import functools
import re
import threading
from datetime import datetime, timedelta, timezone

import pytest

from tgext.asyncjob import (
    AsyncJobError,
    BadCall,
    ConfigError,
    JobQueue,
    NotInJob,
    NotSerializable,
    QueueClosed,
    Task,
    UnknownJob,
    asyncjob_get_progress,
    asyncjob_perform,
    asyncjob_result,
    asyncjob_set_progress,
    asyncjob_timed_query,
    task,
)
from tgext.asyncjob.executors import InlineExecutor
from tgext.asyncjob.options import Options, settings_of


@pytest.fixture
def held():
    """A queue that runs nothing; nothing may come into it but what a test runs."""
    with JobQueue(threads=0) as made:
        yield made
        assert made.backend.waiting() == 0, "a job that was refused waits"


def refused(kind, builtin, words, call, *args, **kwargs):
    """Call; it must raise exactly *kind*, also a *builtin*, with *words* in its message."""
    with pytest.raises(builtin) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    assert isinstance(caught.value, AsyncJobError)
    assert words in str(caught.value)


# -- the callable


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (None, "None"),
        (5, "5"),
        ("myapp.jobs.resize", "'myapp.jobs.resize'"),
        ("x" * 200, f"'{'x' * 76}..."),
        ([], "an instance of builtins.list"),
        (object(), "an instance of builtins.object"),
    ],
)
def test_what_is_not_callable_is_refused_at_the_enqueue(held, wrong, shown):
    refused(
        BadCall, TypeError,
        f"expected something callable to run as a job, got {shown}; give the function itself "
        "and its arguments after it, as in asyncjob_perform(f, 1)",
        asyncjob_perform, wrong,
    )  # fmt: skip


def test_the_result_of_a_call_instead_of_the_callable_does_not_show_its_value(held):
    class Secretive:
        def __repr__(self):
            raise RuntimeError("not for your eyes")

    refused(BadCall, TypeError, "Secretive", asyncjob_perform, Secretive())


# -- arguments that do not fit


def function(a, b=2, *, c=3):
    return a, b, c


def keyword_only(*, c):
    return c


class Sized:
    def __init__(self, width, height):
        self.size = width, height

    def scale(self, factor):
        return factor

    @classmethod
    def square(cls, side):
        return cls(side, side)

    @staticmethod
    def area(width, height):
        return width * height

    def __call__(self, one):
        return one


@task
def declared(a, b=2):
    return a, b


@task(takes_context=True)
def with_context(context, a):
    return context.attempt, a


@functools.wraps(function)
def wrapper(only):
    return function(only, 1, c=1)


sized = Sized(1, 2)
MISFITS = {
    "function, none": (function, (), {}, "missing a required argument: 'a'"),
    "function, too many": (function, (1, 2, 3), {}, "too many positional arguments"),
    "function, unknown": (function, (1,), {"d": 4}, "unexpected keyword argument 'd'"),
    "function, twice": (function, (1,), {"a": 4}, "multiple values for argument 'a'"),
    "keyword-only by position": (keyword_only, (1,), {}, "too many positional arguments"),
    "keyword-only, none": (keyword_only, (), {}, "missing a required"),
    "lambda": (lambda: None, (1,), {}, "too many positional arguments"),
    "bound method, none": (sized.scale, (), {}, "missing a required argument: 'factor'"),
    "bound method, too many": (sized.scale, (1, 2), {}, "too many positional arguments"),
    "unbound method": (Sized.scale, (1,), {}, "missing a required argument: 'factor'"),
    "class method": (Sized.square, (), {}, "missing a required argument: 'side'"),
    "static method": (Sized.area, (1,), {}, "missing a required argument: 'height'"),
    "class": (Sized, (1,), {}, "missing a required argument: 'height'"),
    "class, unknown": (Sized, (1, 2), {"depth": 3}, "unexpected keyword argument 'depth'"),
    "callable object": (sized, (), {}, "missing a required argument: 'one'"),
    "builtin, none": (len, (), {}, "missing a required argument: 'obj'"),
    "builtin, too many": (len, ([], 1), {}, "too many positional arguments"),
    "builtin, keyword": (sorted, ([],), {"kee": 1}, "unexpected keyword argument 'kee'"),
    "partial, too many": (functools.partial(function, 1, 2), (3,), {}, "too many positional"),
    "partial, unknown": (functools.partial(function, c=1), (1,), {"d": 4}, "argument 'd'"),
    "wrapper, as the wrapped": (wrapper, (1, 2), {}, "too many positional arguments"),
    "task": (declared, (), {}, "missing a required argument: 'a'"),
    "task, too many": (declared, (1, 2, 3), {}, "too many positional arguments"),
    "with context, none": (with_context, (), {}, "missing a required argument: 'a'"),
    "with context, its own": (with_context, (None, 1), {}, "too many positional arguments"),
}


@pytest.mark.parametrize(("target", "args", "kwargs", "words"), MISFITS.values(), ids=MISFITS)
def test_arguments_that_do_not_fit_are_refused_at_the_enqueue(held, target, args, kwargs, words):
    refused(BadCall, TypeError, words, asyncjob_perform, target, *args, **kwargs)
    refused(BadCall, TypeError, "the arguments do not fit ", held.perform, target, *args, **kwargs)
    if isinstance(target, Task):
        refused(BadCall, TypeError, words, target.enqueue, *args, **kwargs)


def test_the_message_about_arguments_names_the_callable_its_signature_and_what_came(held):
    refused(
        BadCall, TypeError,
        "the arguments do not fit test_bad_input.function(a, b=2, *, c=3): got an unexpected "
        "keyword argument 'd'; got 1 positional and ['d'] keyword arguments",
        asyncjob_perform, function, 1, d=4,
    )  # fmt: skip


def test_the_message_about_arguments_does_not_show_them(held):
    with pytest.raises(BadCall) as caught:
        asyncjob_perform(function, 1, 2, "hunter2")

    assert "hunter2" not in str(caught.value)


FITS = {
    "function": (function, (1,), {}, (1, 2, 3)),
    "function, keywords": (function, (), {"a": 1, "b": 5, "c": 6}, (1, 5, 6)),
    "bound method": (sized.scale, (4,), {}, 4),
    "static method": (Sized.area, (3, 4), {}, 12),
    "callable object": (sized, (4,), {}, 4),
    "builtin": (len, ("abc",), {}, 3),
    "builtin without a signature": (max, (1, 5, 2), {}, 5),
    "type without a signature": (int, ("12",), {"base": 16}, 18),
    "partial": (functools.partial(function, 1, c=9), (2,), {}, (1, 2, 9)),
    "wrapper": (wrapper, (1,), {}, (1, 1, 1)),
    "task": (declared, (1,), {"b": 7}, (1, 7)),
    "with context": (with_context, (3,), {}, (1, 3)),
    "with context, by name": (with_context, (), {"a": 3}, (1, 3)),
}


@pytest.mark.parametrize(("target", "args", "kwargs", "value"), FITS.values(), ids=FITS)
def test_arguments_that_fit_are_taken(held, target, args, kwargs, value):
    uid = asyncjob_perform(target, *args, **kwargs)
    held.run_pending()

    assert held.result(uid).return_value == value


# -- SQLAlchemy instances


def nested(instance):
    holds_itself = [instance]
    holds_itself.append(holds_itself)
    return {
        "argument": ((instance,), {}),
        "keyword": ((1,), {"note": instance}),
        "in a list": (([1, instance],), {}),
        "in a tuple in a dict": (({"a": (1, instance)},), {}),
        "in a set": (({instance},), {}),
        "in a list that holds itself": ((holds_itself,), {}),
    }


@pytest.mark.parametrize("where", nested(None))
def test_a_database_object_among_the_arguments_is_refused_and_says_to_pass_the_id(
    database, held, where
):
    args, kwargs = nested(database.Note(text="hunter2"))[where]

    refused(
        NotSerializable, TypeError,
        "expected an argument that is independent of this session, got an instance of "
        "conftest.Note, which SQLAlchemy detaches at the commit; pass its id and query it inside "
        "the job",
        asyncjob_perform, lambda *args, **kwargs: None, *args, **kwargs,
    )  # fmt: skip


def test_a_mapped_class_is_no_database_object(database, held):
    uid = asyncjob_perform(lambda mapped: mapped.__name__, database.Note)
    held.run_pending()

    assert held.result(uid).return_value == "Note"


# -- when


def test_a_negative_delay_is_refused():
    refused(
        ConfigError, ValueError,
        "run_after: expected a delay of 0 or more, got datetime.timedelta(days=-1, "
        "seconds=86399); leave it out to run as soon as a worker is free",
        declared.using, run_after=timedelta(seconds=-1),
    )  # fmt: skip


def test_a_naive_datetime_is_refused():
    refused(
        ConfigError, ValueError,
        "run_after: expected an aware datetime, got the naive datetime.datetime(2030, 1, 1, 0, 0);"
        " use datetime.now(timezone.utc) or a timedelta",
        declared.using, run_after=datetime(2030, 1, 1),  # noqa: DTZ001 - that is the point
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [60, 1.5, "tomorrow", timezone.utc, True])
def test_another_kind_of_run_after_is_refused(wrong):
    refused(
        ConfigError, ValueError,
        f"run_after: expected an aware datetime or a timedelta, got {wrong!r}; for seconds use "
        "timedelta(seconds=...)",
        declared.using, run_after=wrong,
    )  # fmt: skip


@pytest.mark.parametrize(
    "when",
    [
        timedelta.max,
        timedelta(days=4_000_000),
        datetime.max.replace(tzinfo=timezone.utc),
    ],
)
def test_a_run_after_beyond_the_calendar_is_refused_or_waits_but_does_not_break_the_result(when):
    with JobQueue(threads=0) as queue:
        try:
            later = declared.using(run_after=when)
        except ConfigError:
            return
        result = later.enqueue(1)  # an OverflowError here leaves a job whose result none can read

        assert result.status == "READY"
        assert result.cancel()
        assert queue.backend.waiting() == 0


def test_a_moment_that_has_passed_means_at_once(held):
    result = declared.using(run_after=datetime(2000, 1, 1, tzinfo=timezone.utc)).enqueue(1)

    assert held.run_pending() == 1
    result.refresh()
    assert result.return_value == (1, 2)


# -- options of a task

NAN = float("nan")
TASK_OPTIONS = {
    "priority": (
        "a whole number from -100 to 100, larger first",
        [1000, 101, -101, True, "1", 1.0, None],
        [-100, 0, 100],
    ),
    "queue_name": ("a name of 1 to 64 characters", ["", "x" * 65, None, 5], ["a", "x" * 64]),
    "takes_context": ("True or False", [1, "yes", None], [True, False]),
    "max_attempts": ("a whole number, at least 1", [0, -1, True, "3", 1.5, None], [1, 1000]),
    "backoff": (
        "seconds, at least 0, or a callable of the attempt",
        [-1, -0.1, NAN, "2", None, True],
        [0, 0.5, 10**9, lambda attempt: 1],
    ),
    "timeout": ("seconds, more than 0, or None", [0, -1, NAN, "5", True], [None, 0.1, 10**6]),
}
WRONG = [(name, text, value) for name, (text, bad, _) in TASK_OPTIONS.items() for value in bad]
RIGHT = [(name, value) for name, (_, _, good) in TASK_OPTIONS.items() for value in good]


@pytest.mark.parametrize(("name", "expected", "value"), WRONG)
def test_a_task_option_out_of_range_is_refused_when_it_is_given(name, expected, value):
    words = f"{name}: expected {expected}, got {value!r}"

    refused(ConfigError, ValueError, words, lambda: task(**{name: value})(function))
    refused(ConfigError, ValueError, words, declared.using, **{name: value})


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_a_task_option_at_its_bound_is_taken(name, value):
    assert getattr(task(**{name: value})(function), name) == value
    assert getattr(declared.using(**{name: value}), name) == value


def test_a_timeout_without_end_is_refused_or_works(held, monkeypatch):
    """A Timer cannot wait for ever: it raised OverflowError in a thread of its own."""
    raised = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: raised.append(hook.exc_type))
    try:
        patient = declared.using(timeout=float("inf"))
    except ConfigError:
        return
    timers = set(threading.enumerate())
    result = patient.enqueue(1)

    assert held.run_pending() == 1
    for timer in set(threading.enumerate()) - timers:
        timer.join(20)
    result.refresh()
    assert result.status == "SUCCESSFUL"
    assert raised == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priorty": 1}, "unknown option priorty; did you mean priority?"),
        ({"max_attempt": 1}, "unknown option max_attempt; did you mean max_attempts?"),
        ({"time_out": 1}, "unknown option time_out; did you mean timeout?"),
        (
            {"zzz": 1},
            "unknown option zzz; known are priority, queue_name, takes_context, max_attempts, "
            "backoff, timeout",
        ),
        ({"func": function}, "unknown option func; known are "),
    ],
)
def test_an_unknown_task_option_is_refused_with_the_right_one(options, words):
    refused(ConfigError, ValueError, f"@task: {words}", task, **options)
    refused(ConfigError, ValueError, f"Task.using: {words}", declared.using, **options)


def test_run_after_belongs_to_using_and_near_misses_of_it_are_understood():
    refused(
        ConfigError, ValueError, "Task.using: unknown option runafter; did you mean run_after?",
        declared.using, runafter=timedelta(1),
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [5, "resize", None])
def test_a_task_made_of_what_is_no_function_is_refused(wrong):
    words = f"@task: expected a function to decorate, got {wrong!r}"
    if wrong is not None:
        refused(BadCall, TypeError, words, task, wrong)
    refused(BadCall, TypeError, words, task(), wrong)


# -- progress


def test_progress_outside_a_job_is_refused(held):
    refused(
        NotInJob, RuntimeError,
        "asyncjob_set_progress() works only inside a job, and none is running in this thread; "
        "call it from the function that was given to asyncjob_perform",
        asyncjob_set_progress, 1,
    )  # fmt: skip


@pytest.mark.parametrize("wrong", ["1", 1.5, None, True])
def test_a_progress_that_is_no_whole_number_is_refused(held, wrong):
    def job(**arguments):
        refused(
            BadCall, TypeError,
            f"asyncjob_set_progress: expected {list(arguments)[-1]} to be an int, got {wrong!r}",
            asyncjob_set_progress, **arguments,
        )  # fmt: skip

    uids = [asyncjob_perform(job, value=wrong)]
    if wrong is not None:
        uids.append(asyncjob_perform(job, value=1, total=wrong))
    held.run_pending()

    assert [held.result(uid).errors for uid in uids] == [[]] * len(uids)


# -- uids


def test_an_unknown_uid_is_an_unknown_job_that_says_how_long_jobs_are_kept(held):
    refused(
        UnknownJob, LookupError,
        "no job 'asyncjob_x': the memory backend has none; ended jobs are kept for 604800 s "
        "(asyncjob.retention)",
        asyncjob_result, "asyncjob_x",
    )  # fmt: skip
    for ask in held.results.cancel, held.results.retry, held.results.snapshot, held.result:
        refused(UnknownJob, LookupError, "no job 'nonsense'", ask, "nonsense")


@pytest.mark.parametrize("wrong", [None, 5, b"asyncjob_x", ["x"]])
def test_a_uid_that_is_no_str_is_an_unknown_job_and_its_progress_is_none(held, wrong):
    words = f"no job {wrong!r}: a uid is a str, got {type(wrong).__name__}"

    refused(UnknownJob, LookupError, words, asyncjob_result, wrong)
    for ask in held.results.cancel, held.results.retry:
        refused(UnknownJob, LookupError, words, ask, wrong)
    assert asyncjob_get_progress(wrong) is None


def test_a_uid_of_another_process_says_whose_it_is_and_the_way_out(held):
    foreign = f"asyncjob_1_{'0' * 8}_{'0' * 32}"

    for ask in asyncjob_result, asyncjob_get_progress, held.results.cancel, held.results.retry:
        refused(UnknownJob, LookupError, "it was made by process 1 and this is ", ask, foreign)
        refused(UnknownJob, LookupError, "set asyncjob.backend = sql", ask, foreign)


def test_a_uid_of_another_queue_of_this_process_is_unknown(held):
    with JobQueue(threads=0) as other:
        uid = other.perform(int)

        refused(UnknownJob, LookupError, f"no job {uid!r}", held.result, uid)
        refused(UnknownJob, LookupError, f"no job {uid!r}", held.results.cancel, uid)
        assert other.run_pending() == 1


# -- a queue that is closed


def test_an_enqueue_on_a_closed_queue_is_refused():
    with JobQueue(threads=0) as closed:
        pass

    refused(
        QueueClosed, RuntimeError,
        "this job queue was closed; enqueue before close(), or make another JobQueue",
        closed.perform, function, 1,
    )  # fmt: skip


# -- options of a queue

WHOLE = ["x", "1.5", 1.5, True, [], NAN, float("inf")]
SECONDS = ["x", -1, "-0.5", NAN, "nan", float("inf"), "inf", True, []]
QUEUE_OPTIONS = {
    "backend": ("memory", ["redis", "Memory", 5]),
    "engine": ("own or celery", ["clery", "OWN", 5]),
    "threads": ("a whole number", WHOLE),
    "queues": ("one or more names, separated by commas", [",", "a,,b", 5, ["a", 3], []]),
    "url": ("a word", ["  ", 5]),
    "create_tables": ("true or false", ["maybe", 2, "yess"]),
    "table_prefix": ("up to 30 letters, digits and underscores", ["a b", "1x", "x" * 31, "a;b"]),
    "schema": ("the name of a schema of the database", ["a b", "1x", 'a"b', "x" * 64]),
    "secret": ("a word", ["  ", 5]),
    "lease": ("seconds", SECONDS),
    "drain_timeout": ("seconds", SECONDS),
    "retention": ("seconds", SECONDS),
    "max_crashes": ("a whole number", WHOLE),
    "max_queued": ("a whole number", WHOLE),
    "on_failure": ("the path of a function, as myapp.jobs:on_failure", ["tell", ":f", "a:", 5]),
    "web_path": ("a path such as /asyncjob, or none", ["jobs", "/", "/a/", "/a b", "/../a"]),
    "progress_access": ("uid or owner", ["UID", "all", 5]),
    "web_permission": ("a word", ["  ", 5]),
    "web_readonly_permission": ("a word", ["  ", 5]),
    "broker_url": ("a word", ["  ", 5]),
    "celery_app": ("MODULE:NAME", ["shop.celery.app", "shop:", ":app"]),
    "base_url": ("a word", ["  ", 5]),
}
MALFORMED = [(name, text, value) for name, (text, bad) in QUEUE_OPTIONS.items() for value in bad]


def test_every_option_is_tried_here():
    assert set(QUEUE_OPTIONS) == set(Options.__dataclass_fields__)


@pytest.mark.parametrize(("name", "expected", "value"), MALFORMED)
def test_a_malformed_option_is_refused_by_its_name(name, expected, value):
    with pytest.raises(ValueError, match=re.escape(f"asyncjob.{name}: expected {expected}")) as e:
        Options.of({name: value})

    assert type(e.value) is ConfigError
    hidden = {"secret": "a secret value", "broker_url": "a value without ://"}
    said, _, hint = str(e.value).partition("; did you mean ")
    assert said.endswith(f", got {hidden.get(name, repr(value))}")
    assert hint in ("", *(f"{each}?" for each in expected.split(" or ")))


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [
        ("threads", 0, -1),
        ("lease", 1, 0.99),
        ("drain_timeout", 0, -0.01),
        ("retention", 0, -1),
        ("max_crashes", 1, 0),
        ("max_queued", 1, 0),
    ],
)
def test_an_option_has_a_least_value_as_text_too(name, least, below):
    words = rf"asyncjob\.{name}: expected .*\b{least}(?: or more)?, got "
    for value in below, str(below), -1:
        with pytest.raises(ConfigError, match=words) as caught:
            Options.of({name: value})
        assert f"got {value!r}" in str(caught.value)
    for value in least, str(least):
        assert getattr(Options.of({name: value}), name) == least


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("thread", "unknown option asyncjob.thread; did you mean asyncjob.threads?"),
        ("drain_timout", "unknown option asyncjob.drain_timout; did you mean "),
        ("leese", "unknown option asyncjob.leese; did you mean asyncjob.lease?"),
        ("zzz", "unknown option asyncjob.zzz; known are backend, engine, threads, queues, url, "),
    ],
)
def test_an_unknown_option_is_refused_with_the_right_one(name, words):
    refused(ConfigError, ValueError, words, Options.of, {name: 1})
    refused(ConfigError, ValueError, words, JobQueue, **{name: 1})


def test_a_queue_that_was_refused_is_not_open():
    refused(ConfigError, ValueError, "asyncjob.threads", JobQueue, threads=-1)
    refused(ConfigError, ValueError, "but none is open", asyncjob_perform, function, 1)


@pytest.mark.parametrize("wrong", [None, 5, object])
def test_a_backend_that_is_none_is_refused(wrong):
    refused(ConfigError, ValueError, "asyncjob.backend: expected ", JobQueue, wrong)


def test_secrets_are_never_shown():
    options = Options.of(
        {
            "secret": "hunter2",
            "url": "postgresql://me:hunter2@localhost/db",
            "broker_url": "amqp://me:hunter2@localhost//",
        }
    )

    assert options.secret == "hunter2"
    assert "hunter2" not in repr(options)


@pytest.mark.parametrize("options", [{"secret": ["hunter2"]}, {"secert": "hunter2"}])
def test_secrets_are_not_shown_in_the_refusal_of_an_option(options):
    with pytest.raises(ConfigError) as caught:
        Options.of(options)

    assert "hunter2" not in str(caught.value)


def test_options_from_the_ini_file_are_text_and_lose_their_prefix():
    found = settings_of(
        {
            "asyncjob.threads": " 4 ",
            "asyncjob.queues": "mail, default,mail",
            "asyncjob.create_tables": "off",
            "asyncjob.retention": "3600",
            "asyncjob.max_queued": "",
            "sqlalchemy.url": "sqlite://",
        }
    )
    options = Options.of(found)

    assert (options.threads, options.queues) == (4, ("mail", "default"))
    assert options.create_tables is False
    assert (options.retention, options.max_queued) == (3600.0, None)


@pytest.mark.parametrize(
    "key",
    ["asyncjob_max_queued", "asyncjob-max-queued", "async_job.max_queued", "asyncjobs.max_queued",
     "asyncjob.Max_Queued", "AsyncJob.max_queued", "tgext.asyncjob.max_queued",
     "asyncjob.max-queued", "asyncjob_maxqueued", " asyncjob.max_queued"],
)  # fmt: skip
def test_option_with_another_spelling_is_refused_with_the_right_name(key):
    with pytest.raises(ConfigError, match=r"did you mean asyncjob\.max_queued\?"):
        Options.of(settings_of({"sqlalchemy.url": "sqlite://", key: "4"}))


@pytest.mark.parametrize("key", ["asyncjob_page", "asyncjob_uid", "async", "asyncjob", "threads"])
def test_key_of_an_application_that_is_none_of_ours_is_left_alone(key):
    assert settings_of({key: "4", 7: "x"}) == {}


def test_keyword_with_the_prefix_is_refused_with_the_right_name():
    with pytest.raises(ConfigError, match=r"option asyncjob_lease; did you mean asyncjob\.lease\?"):
        Options.of({"asyncjob_lease": 4})


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        Options().threads = 2
    with pytest.raises(AttributeError):
        declared.priority = 2


# -- the session


def test_a_session_that_nobody_commits_is_refused_with_the_line_that_is_missing():
    from sqlalchemy.orm import scoped_session, sessionmaker

    for wrong, shown in (scoped_session(sessionmaker()), "scoped_session"), (5, "int"):
        refused(
            ConfigError, ValueError,
            f"session: expected a scoped_session registered with zope.sqlalchemy, got {shown}; "
            "nothing would commit its work: make it a scoped_session and add the line "
            "`zope.sqlalchemy.register(DBSession)` below it",
            JobQueue, session=wrong,
        )  # fmt: skip


# -- options that a row of a database does not hold


def at_once(_attempt):
    return 0


def test_option_that_a_row_does_not_hold_is_refused_with_the_way_out(tmp_path):
    with JobQueue("sql", url=f"sqlite:///{tmp_path}/jobs.db", threads=0) as sql, sql.as_current():
        for options, name, way in (
            ({"backoff": at_once}, "backoff", "or give seconds"),
            ({"backoff": lambda attempt: 0}, "backoff", "by @task(backoff=...)"),
            ({"executor": InlineExecutor()}, "executor", "or give the name of one"),
        ):
            for made in (declared.using(**options), task(**options)(function)):
                refused(
                    NotSerializable, TypeError,
                    f"{name}: expected a value that a database row can hold",
                    made.enqueue, 1,
                )  # fmt: skip
                refused(NotSerializable, TypeError, way, made.enqueue, 1)
        assert sql.backend.waiting() == 0


def test_job_whose_task_lost_the_option_that_it_needs_fails_and_runs_nowhere_else(tmp_path):
    with JobQueue("sql", url=f"sqlite:///{tmp_path}/jobs.db", threads=0) as sql, sql.as_current():
        result = in_an_executor.enqueue()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "in_an_executor", in_an_executor.func)
            sql.run_pending()

        [error] = sql.result(result.id).errors
    assert error.exception_class_path == "tgext.asyncjob.errors.CallableMissing"
    assert "it is no longer a task, and the job needs its executor" in error.message


@task(executor=InlineExecutor())
def in_an_executor():
    raise AssertionError("it ran")


def test_more_attempts_than_a_column_holds_are_refused():
    with pytest.raises(ConfigError, match="at most 1000000000, got 10000000000"):
        task(max_attempts=10**10)(function)


# -- numbers that are none, or without end


@pytest.mark.parametrize("name", ["lease", "drain_timeout", "retention"])
@pytest.mark.parametrize("value", [1e300, "1e300", 1e10, float("inf"), 10**400])
def test_seconds_that_no_clock_can_wait_for_are_refused_as_an_option(name, value):
    """It was an OverflowError in a thread of the worker's, or in close()."""
    with pytest.raises(ConfigError, match=rf"asyncjob\.{name}: expected seconds"):
        Options.of({name: value})


def test_wait_takes_no_timeout_that_is_no_number_and_infinity_for_ever(held):
    result = declared.enqueue(1)

    for wrong in NAN, "5", True:
        refused(BadCall, TypeError, f"wait: expected seconds, got {wrong!r}", result.wait, wrong)
    held.run_pending()
    for endless in float("inf"), 1e300, 10**400:
        assert result.wait(endless).status == "SUCCESSFUL"


def test_run_pending_and_a_timed_query_take_whole_numbers(held):
    declared.enqueue(1)

    refused(BadCall, TypeError, "limit: expected a whole number, got nan", held.run_pending, NAN)
    for given, words in ((NAN, 1), "retries: expected a whole"), ((1, NAN), "interval: expected"):
        with pytest.raises(BadCall, match=words):
            asyncjob_timed_query(None, *given)
    assert held.run_pending(float("inf")) == 1
