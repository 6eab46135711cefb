"""``@background``: an action of a controller that takes long runs as a job.

    request --> job, wait ``after`` seconds --> done: the action's normal page
                                            --> else: 202, a page with a bar; it leads to
    the same URL with _job=<uid> -----------> done: the action's normal page

The URL names the job, so that nothing is kept between the two requests. Permissions are those of
the action: TurboGears asks for them at each request, before it comes here.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlencode

import tg
from webob import Response

from ..amount import is_number
from ..call import Call
from ..current import current_queue
from ..errors import AsyncJobError, BadCall, ConfigError, MissingExtra, UnknownJob
from ..job import FAILED, READY, RUNNING, SUCCESSFUL
from ..task_options import TaskOptions
from ..task_result import TaskResult
from .job_context import user_of

try:
    from ..web.element import asyncjob_progress
    from ..web.pages import render
    from ..web.redirect import LocalResponse, base_of
    from ..web.texts import translated_by
    from ..web.visitor import visitor_var
except MissingExtra:
    is_installed = False
else:
    is_installed = True

Action = TypeVar("Action", bound=Callable[..., Any])

#: The field of the URL that names the job.
FIELD = "_job"

#: Unfinished jobs of the user that are looked through for the same call.
MOST_LOOKED_AT = 50


def background(after: float = 0.8, **options: Any) -> Callable[[Action], Action]:
    """Declare that an action runs as a job, and answers with a bar if it takes longer.

    It stands below ``@expose`` and ``@require``. The job runs the action with a new instance of
    its controller and the arguments of the request, in a transaction of its own; it returns what
    can be stored, such as a dict of texts and numbers. A request of the same user with the same
    arguments joins a job that has not ended.

    after: seconds to wait for the end before the answer is the bar. options: those of ``@task``,
    such as queue_name and timeout; none that is a function, class or object, which no row holds.
    Raises ConfigError for an option that is none, MissingExtra without the extra ``web``.
    """
    if not is_installed:
        raise MissingExtra("background", "web")
    if not is_number(after) or after < 0:
        raise ConfigError(f"background: expected after to be seconds, 0 or more, got {after!r}")
    try:
        wanted = TaskOptions(**options)
    except TypeError:
        raise ConfigError(
            f"background: expected options of @task, such as timeout and queue_name, got "
            f"{', '.join(options)}"
        ) from None

    refused = [name for name, value in options.items() if _is_of_process(name, value)]
    if refused:
        raise ConfigError(
            f"background: expected options that the row of a job can hold, got "
            f"{', '.join(refused)}; declare a task with them, and enqueue that in the action"
        )

    def declare(action: Action) -> Action:
        path = f"{action.__module__}:{action.__qualname__}"

        @functools.wraps(action)
        def answer(_controller: Any, *args: Any, **kwargs: Any) -> Any:
            uid = tg.request.GET.get(FIELD)
            kwargs.pop(FIELD, None)  # an action with **kwargs is given all fields
            if uid is not None:
                return _Visit(_job_of(uid, path)).answer()
            call = _call(action, args, kwargs)
            return _Visit(_joined(path, call) or _begun(path, call, wanted)).answer(after)

        answer.__asyncjob_action__ = action  # type: ignore[attr-defined]
        return cast("Action", answer)

    return declare


def _is_of_process(name: str, value: Any) -> bool:
    """Whether a worker would look for an option where a task is declared; an action is none."""
    of_tasks = ("takes_context", "retry_on", "give_up_on")
    return name in of_tasks or callable(value) or (name == "executor" and type(value) is not str)


def _call(action: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> list[Any]:
    """The arguments of the action, as JSON has them; 404 for ones that it does not take. A field
    that it does not know is left out, as TurboGears does for other actions."""
    signature = inspect.signature(action)
    kinds = {each.kind for each in signature.parameters.values()}
    known = inspect.Parameter.VAR_KEYWORD in kinds
    kwargs = {name: value for name, value in given.items() if known or name in signature.parameters}
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError:
        tg.abort(404)
    try:
        found: list[Any] = json.loads(json.dumps([args, kwargs], sort_keys=True))
    except (TypeError, ValueError) as error:
        raise BadCall(
            f"background: expected arguments that JSON has, such as texts and numbers, got "
            f"{kwargs!r}: {error}"
        ) from error
    return found


def _user() -> str | None:
    return user_of(tg.request.environ)


def _joined(path: str, call: list[Any]) -> TaskResult | None:
    """An unfinished job of the same user with the same call; None if there is none."""
    user = _user()
    if user is None:  # everybody who is not logged in is nobody
        return None
    found = current_queue().jobs(
        status=[READY, RUNNING], name=_NAME, user=user, limit=MOST_LOOKED_AT
    )
    own = (each for each in found.results if each.enqueued_by == user)  # see JobQueue.mine
    return next((each for each in own if _called_by(each) == [path, *call]), None)


def _called_by(job: TaskResult) -> list[Any]:
    """The arguments of a job; [] if this process cannot read them, since it has another secret."""
    try:
        return list(job.args)
    except AsyncJobError:
        return []


def _begun(path: str, call: list[Any], options: TaskOptions) -> TaskResult:
    queue = current_queue()
    # At once, and not with the transaction of this request, which waits for the job.
    with queue.in_transaction(False):
        return queue.enqueue(Call(run_action, (path, *call), None), options, None)


def _job_of(uid: str, path: str) -> TaskResult:
    """The job that a URL names; 404 unless it is one of this user and this action."""
    try:
        found = current_queue().result(uid)
        if found.name == _NAME and found.enqueued_by == _user() and _called_by(found)[:1] == [path]:
            return found
    except UnknownJob:
        pass
    tg.abort(404)
    raise AssertionError  # abort raises


class _Base(NamedTuple):
    """What a page of the package needs of a visit."""

    base: str


class _Visit:
    """A request for what a job returns."""

    def __init__(self, job: TaskResult) -> None:
        self._job = job

    def answer(self, after: float = 0.0) -> Any:
        """Return what the action has returned; after so many seconds the page with the bar."""
        job = self._job
        if after and not job.is_finished:
            try:
                job.wait(after)
            except TimeoutError:
                job.refresh()
        if job.status is SUCCESSFUL:
            return job.return_value
        tg.request.disable_error_pages()
        status = 202 if not job.is_finished else 500 if job.status is FAILED else 409
        return self._as_json(status) if _wants_json() else self._as_page(status)

    def _url(self) -> str:
        request = tg.request
        fields = [(name, value) for name, value in request.GET.items() if name != FIELD]
        query = urlencode([*fields, (FIELD, self._job.id)])
        return f"{request.path}?{query}"

    def _as_json(self, status: int) -> Response:
        response = LocalResponse(json_body=self._job.__json__(), status=status)
        if status == 202:
            response.location = self._url()
        return self._kept_nowhere(response)

    def _as_page(self, status: int) -> Response:
        web_path = current_queue().options.web_path or ""
        then = self._url() if status == 202 else None
        element = asyncjob_progress(self._job.id, cancel=True, then=then)
        visit: Any = _Base(f"{base_of(tg.request.environ)}{web_path}")
        with translated_by(visitor_var.get()().translations):
            return self._kept_nowhere(render("progress.xhtml", visit, status, element=element))

    def _kept_nowhere(self, response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return response


def _wants_json() -> bool:
    request = tg.request
    if request.response_type is not None:  # such as /year.json
        return bool(request.response_type == "application/json")
    offered = request.accept.acceptable_offers(["text/html", "application/json"])
    return bool(offered) and offered[0][0] == "application/json"


def run_action(path: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Be the job: call the action at *path* with a new instance of its controller."""
    module, _, name = path.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for each in outer:
        owner = getattr(owner, each)
    action = getattr(getattr(owner, last), "__asyncjob_action__", None)
    if action is None or not inspect.isclass(owner):
        raise ConfigError(f"background: expected {path} to be an action with @background")
    return action(owner(), *args, **kwargs)


_NAME = f"{run_action.__module__}.{run_action.__qualname__}"
