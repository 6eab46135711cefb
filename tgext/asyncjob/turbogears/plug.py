"""Gives an application its queue: ``start_async_worker`` in Globals, or ``plugme``.

    start_async_worker / plugme   makes a JobQueue on app_globals, registers the wrapper
    hook config_setup             the application's DBSession exists: binds it to the queue
    hook configure_new_app        the WSGI application exists: allows jobs to run here

Nothing here starts a thread, because ``gearbox setup-app`` and a parent process that will fork make
``Globals()`` too. The worker starts with the first request or the first job.

Values in the .ini file override keyword arguments.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import tg
from tg.appwrappers.transaction_manager import TransactionApplicationWrapper
from tg.configurator.base import ConfigReadyConfigurationAction, ConfigurationComponent

from ..current import open_queues
from ..errors import ConfigError
from ..options import settings_of
from ..queue import JobQueue
from ..worker import job_log
from ..worker.progress_tracker import Tracker
from . import debug_panel
from .job_context import TurboGearsJobContext
from .sections import warn_of_misplaced
from .web_pages import provide_element
from .wrapper import JobQueueWrapper, is_transaction_managed

log = logging.getLogger(__name__)

#: The options with the secret of an application's sessions, for different kinds of sessions.
_SECRETS = (
    "session.secret",
    "beaker.session.secret",
    "session.validate_key",
    "beaker.session.validate_key",
    "sa_auth.cookie_secret",
)

#: The key of the queue in an application's configuration, whichever object it was made for.
_QUEUE = "tgext.asyncjob.queue"

#: The applications of this process.
_apps: WeakSet[Any] = WeakSet()

#: Queues that were made before the application, so that it is not known which one they belong to.
_early: WeakSet[JobQueue] = WeakSet()


def start_async_worker(
    app_globals: Any = None, progress_tracker: Tracker | None = None, **options: Any
) -> JobQueue:
    """Make a JobQueue for an application, and set it as ``asyncjob_queue`` of its Globals object.

    In a process that serves requests the worker starts with the first request or job. A second call
    for the same application returns the same queue.

    app_globals: the Globals object; None: the object whose ``__init__`` calls this function, else
        the configured one.
    progress_tracker: an object with ``track``, ``set_progress``, ``get_progress`` and ``remove``
        that stores progress instead of the backend.
    options: the options of the .ini file, without the prefix; values in the file override them.
    Raises ConfigError for an unknown or invalid option, and if there is no Globals object.
    """
    configured = _current_configuration()
    if app_globals is None:
        app_globals = _under_construction(sys._getframe(1)) or configured.get("tg.app_globals")
    if app_globals is None:
        raise ConfigError(
            "start_async_worker(): expected to be called in Globals.__init__, or with the "
            "Globals object; there is no configured application to find it in"
        )
    if configured.get("tg.app_globals") is not app_globals:
        # That of the application that is being made; tg.config may be another one's, of which this
        # thread serves a request.
        configured = tg.config._process_configs[-1]
    if any(app.config is configured for app in _apps):
        raise ConfigError(
            "start_async_worker(): expected to be called before the application is made, got "
            "called after it, when its requests cannot get the queue; call it in Globals.__init__"
        )
    queue = _attach(app_globals, configured, progress_tracker, options)
    if configured.get("tg.app_globals") is app_globals:
        _bind(queue, configured)
    return queue


def plugme(configurator: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make a JobQueue for ``plug(base_config, 'tgext.asyncjob', threads=2, ...)``.

    configurator: an ApplicationConfigurator, or an AppConfig.
    options: those of ``start_async_worker``, and those of tgext.pluggable itself.
    When the application is made, ConfigError is raised for an unknown or invalid option.
    """
    configurator = getattr(configurator, "_configurator", configurator)
    given = {
        name: value
        for name, value in (options or {}).items()
        if name != "appid" and not name.startswith("plug_")
    }
    app_globals = given.pop("app_globals", None)
    tracker = given.pop("progress_tracker", None)

    class AsyncJobComponent(ConfigurationComponent):  # type: ignore[misc]
        id = "asyncjob"

        def get_actions(self) -> tuple[Any, ...]:
            return (ConfigReadyConfigurationAction(self._ready),)

        def _ready(self, conf: dict[str, Any], _app: Any) -> None:
            queue = _attach(conf["tg.app_globals"], conf, tracker, given)
            if app_globals is not None:  # another object, in which the application looks for it
                app_globals.asyncjob_queue = queue

    with suppress(KeyError):  # it is plugged already
        configurator.register(AsyncJobComponent)
    return {"appid": "asyncjob", "plug_controller": False}


def _current_configuration() -> dict[str, Any]:
    try:
        config: dict[str, Any] = tg.config._current_obj()
    except (AttributeError, TypeError):  # there is none
        config = {}
    return config


def _under_construction(frame: Any) -> Any:
    """The object whose ``__init__`` *frame* runs; None for any other frame."""
    return frame.f_locals.get("self") if frame.f_code.co_name == "__init__" else None


def _attach(
    app_globals: Any, config: dict[str, Any], tracker: Tracker | None, options: Mapping[str, Any]
) -> JobQueue:
    found = getattr(app_globals, "asyncjob_queue", None)
    if isinstance(found, JobQueue):
        return found
    settings = {"secret": _secret_of(config), **options, **settings_of(config)}
    backend = settings.pop("backend", "memory")
    queue = JobQueue(backend, progress_tracker=tracker, **settings)
    app_globals.asyncjob_queue = queue
    warn_of_misplaced(config)
    if config.get("application_wrappers") is None:
        _early.add(queue)
    else:
        config[_QUEUE] = queue
        _register_wrapper(config)
    return queue


def _secret_of(config: Mapping[str, Any]) -> str | None:
    """The application's own session secret, which signs its cookies; None if it has none."""
    found = (config.get(name) for name in _SECRETS)
    return next((secret for secret in found if isinstance(secret, str) and secret.strip()), None)


def _register_wrapper(config: dict[str, Any]) -> None:
    """Add the wrapper to those of this application, outside the transaction manager's.

    To the collection itself: register_application_wrapper() logs a warning for each application
    of a process except the first.
    """
    wrappers = config.get("application_wrappers")
    if wrappers is None:
        return
    found = any(wrapper is TransactionApplicationWrapper for wrapper in wrappers.values())
    with suppress(KeyError):  # it is there already
        wrappers.add(JobQueueWrapper, after=TransactionApplicationWrapper if found else None)


def _queue_of(config: Mapping[str, Any]) -> JobQueue | None:
    queue = getattr(config.get("tg.app_globals"), "asyncjob_queue", None)
    return queue if isinstance(queue, JobQueue) else None


def _on_config_setup(_configurator: Any, config: dict[str, Any]) -> None:
    queue = _queue_of(config) or config.get(_QUEUE)
    if queue is None:
        _refuse_early_queues()
        return
    _early.discard(queue)
    config["tg.app_globals"].asyncjob_queue = queue
    _register_wrapper(config)
    provide_element(config)
    debug_panel.register()
    _bind(queue, config)


def _refuse_early_queues() -> None:
    """Refuse to make an application without a queue if a queue was made for none."""
    for queue in _early & set(open_queues):
        queue.close()
        raise ConfigError(
            "start_async_worker(): expected the Globals object of an application, got another "
            "object, in which no request looks for a queue; call it in Globals.__init__ without it"
        )


def _on_new_app(app: Any) -> None:
    _apps.add(app)
    queue = _queue_of(app.config)
    if queue is not None:
        job_log.install()  # the application may have reset its logging, and the handler with it
        job_context = TurboGearsJobContext(app, queue)
        queue.bind(
            capture=job_context.capture,
            enter_context=job_context.enter,
            is_here=job_context.is_here,
        )
        queue.allow_worker()


def _bind(queue: JobQueue, config: dict[str, Any]) -> None:
    """Bind *queue* to the application's session; log a warning if nothing commits it."""
    session = config.get("SQLASession")
    if session is None:  # not `or`: a Ming session has no truth value
        session = config.get("DBSession")
    if not _is_sqlalchemy(session):
        return
    try:
        queue.bind(session)
    except BaseException:
        queue.close()  # its application will not be made
        raise
    if not is_transaction_managed(config):
        log.warning(
            "this application has a DBSession and no transaction manager: nothing commits what its "
            "requests write, and jobs are enqueued at once, even if the request fails "
            "later; add `configurator.register(TransactionManagerConfigurationComponent)` "
            "(tg.configurator.components.transactions), or set tm.enabled = true"
        )


def _is_sqlalchemy(session: Any) -> bool:
    return type(session).__module__.partition(".")[0] == "sqlalchemy"


# Hooks are process-wide: they are called for each application.
tg.hooks.register("config_setup", _on_config_setup)
tg.hooks.register("configure_new_app", _on_new_app)
