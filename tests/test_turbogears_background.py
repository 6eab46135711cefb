"""``@background``: a slow action of a controller as a job, and its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tg import TGController, expose, require
from tg.predicates import has_permission

from tgapps import App, applications, globals_with
from tgext.asyncjob import ConfigError, background
from tgext.asyncjob.errors import BadSignature
from tgext.asyncjob.task_result import TaskResult
from tgext.asyncjob.turbogears.slow_action import run_action


class Root(TGController):
    place = "in a controller"

    @expose("json")
    @background(after=0)
    def place_of(self):
        return {"where": self.place}

    @expose("json")
    @background(after=0)
    def slow(self, number="1"):
        return {"double": 2 * int(number)}

    @expose("json")
    @require(has_permission("may"))
    @background(after=0)
    def secret(self):
        return {"secret": 42}

    @expose("json")
    @background(after=0)
    def broken(self):
        raise ValueError("three is not a colour")

    @expose("json")
    @background(after=0)
    def other(self):
        return {}


class Identities:
    def get_user(self, _identity, userid):
        return userid

    def get_groups(self, _identity, _userid):
        return []

    def get_permissions(self, _identity, userid):
        return [userid]


@pytest.fixture(params=["memory", "sql"])
def app(request: Any, tmp_path: Path) -> Iterator[Any]:
    with applications(tmp_path) as make:
        yield make(
            Root(),
            app_globals=globals_with(threads=0, secret="swordfish"),
            ini={"asyncjob.backend": request.param},
            **{"sa_auth.authmetadata": Identities()},
        )  # fmt: skip


def as_user(name: str | None) -> dict[str, Any]:
    return {} if name is None else {"repoze.who.identity": {"repoze.who.userid": name}}


AS_JSON = {"Accept": "application/json"}


def asked(app: App, path: str, user: str | None = None, json: bool = False) -> Any:
    headers = AS_JSON if json else {"Accept": "text/html"}
    return app.get(path, headers=headers, extra_environ=as_user(user))


def led_to(answer: Any) -> str:
    """Where the bar of a page leads at the end."""
    return str(
        answer.html.find("form", class_="asyncjob-reload").find(attrs={"name": "then"})["value"]
    )


def test_slow_action_answers_with_a_bar_that_leads_to_its_normal_page(app):
    page = asked(app, "/slow?number=4")
    then = led_to(page)
    early = asked(app, then)
    app.queue.run_pending()
    done = asked(app, then)

    assert page.status_int == early.status_int == 202
    assert page.html.find("asyncjob-progress")["data-state"] == "waiting"
    assert page.headers["Cache-Control"] == "no-store"
    assert then.startswith("/slow?number=4&_job=asyncjob_")
    assert (done.status_int, done.json) == (200, {"double": 8})


def test_program_gets_202_and_where_to_ask_again(app):
    answer = asked(app, "/slow?number=4", json=True)
    uid = answer.json["id"]
    again = asked(app, answer.location, json=True)
    app.queue.run_pending()

    assert (answer.status_int, answer.json["status"]) == (202, "READY")
    assert answer.location.endswith(f"/slow?number=4&_job={uid}")
    assert again.status_int == 202
    assert asked(app, answer.location, json=True).json == {"double": 8}


def test_action_that_is_done_in_time_answers_with_its_page_at_once(tmp_path):
    with applications(tmp_path) as make:
        made = make(QuickRoot(), app_globals=globals_with(threads=1), database=False)

        answer = asked(made, "/quick")

    assert (answer.status_int, answer.json) == (200, {"quick": True})


class QuickRoot(TGController):
    @expose("json")
    @background(after=20)
    def quick(self):
        return {"quick": True}


def test_same_user_with_the_same_arguments_joins_the_job_that_has_not_ended(app):
    first = led_to(asked(app, "/slow?number=4", "ann"))
    again = led_to(asked(app, "/slow?number=4", "ann"))
    others = {
        led_to(asked(app, "/slow?number=5", "ann")),
        led_to(asked(app, "/slow?number=4", "bob")),
        led_to(asked(app, "/other", "ann")),
        led_to(asked(app, "/slow?number=4")),
        led_to(asked(app, "/slow?number=4")),
    }
    app.queue.run_pending()

    assert again == first
    assert len(others) == 5
    assert led_to(asked(app, "/slow?number=4", "ann")) != first  # it has ended


@pytest.mark.parametrize("user", [None, "bob"])
def test_job_is_shown_to_its_own_user_and_by_its_own_action_only(app, user):
    then = led_to(asked(app, "/slow", "ann"))
    app.queue.run_pending()

    assert asked(app, then, user).status_int == 404
    assert asked(app, then.replace("/slow", "/other"), "ann").status_int == 404
    assert asked(app, "/slow?_job=asyncjob_nobody", "ann").status_int == 404
    assert asked(app, then, "ann").json == {"double": 2}


def test_permission_is_asked_for_at_each_request(app):
    then = led_to(asked(app, "/secret", "may"))
    app.queue.run_pending()

    assert asked(app, "/secret", "ann").status_int == 403
    assert asked(app, then, "ann").status_int == 403
    assert asked(app, then, "may").json == {"secret": 42}


@pytest.mark.parametrize("json", [False, True])
def test_action_that_fails_says_so(app, json):
    first = asked(app, "/broken", json=json)
    then = first.location if json else led_to(first)
    app.queue.run_pending()

    answer = asked(app, then, json=json)

    assert answer.status_int == 500
    assert "three is not a colour" in answer.text


def test_action_runs_with_a_controller_and_takes_what_it_knows(app):
    then = led_to(asked(app, "/place_of?more=7"))
    too_much = asked(app, "/slow/1/2/3")
    app.queue.run_pending()

    assert asked(app, then).json == {"where": "in a controller"}
    assert too_much.status_int == 404
    assert app.queue.backend.waiting() == 0


@pytest.mark.parametrize(
    "options",
    [{"after": -1}, {"after": "soon"}, {"timeouts": 3}, {"timeout": -3},
     {"takes_context": True}, {"retry_on": ValueError, "max_attempts": 3}, {"backoff": float}],
    ids=str,
)  # fmt: skip
def test_wrong_option_is_refused_where_the_action_is_declared(options):
    with pytest.raises(ConfigError):
        background(**options)


def test_job_runs_nothing_but_such_an_action(app):
    with app.queue.as_current():
        uid = app.queue.perform(run_action, "os:getcwd", [], {})
    app.queue.run_pending()

    assert "to be an action with @background" in app.queue.result(uid).errors[0].message


@pytest.mark.parametrize("user", [7, UUID(int=7)], ids=["int", "uuid"])
def test_user_is_known_by_a_text_whatever_the_application_has(app, user):
    then = led_to(asked(app, "/slow", user))
    again = led_to(asked(app, "/slow", user))
    app.queue.run_pending()

    assert again == then
    assert asked(app, then, user).json == {"double": 2}
    assert [each.enqueued_by for each in app.queue.jobs().results] == [str(user)]
    assert len(app.queue.jobs(user=str(user)).results) == 1


def test_job_that_cannot_be_read_any_more_is_unknown_and_hinders_no_other(app, monkeypatch):
    """As after a change of asyncjob.secret."""
    then = led_to(asked(app, "/slow", "ann"))
    with monkeypatch.context() as changed:
        changed.setattr(TaskResult, "args", property(lambda _self: refuse()))
        again = led_to(asked(app, "/slow", "ann"))
        answer = asked(app, then, "ann")

    assert again != then
    assert answer.status_int == 404


def refuse() -> None:
    raise BadSignature("the signature does not fit")


def test_empty_name_of_the_server_is_nobody(app):
    """As nginx hands it on to uWSGI; all visitors would be one user."""
    nobody = {"headers": {"Accept": "text/html"}, "extra_environ": {"REMOTE_USER": ""}}
    first, other = (led_to(app.get("/slow", **nobody)) for _ in range(2))

    assert first != other
    assert [each.enqueued_by for each in app.queue.jobs().results] == [None, None]
