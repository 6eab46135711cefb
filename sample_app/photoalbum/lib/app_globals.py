"""The application's Globals object."""

from tgext.asyncjob import start_async_worker

__all__ = ["Globals"]


class Globals:
    """Hold what lives as long as the application.

    During a request it is ``tg.app_globals``.
    """

    def __init__(self):
        # This line switches background jobs on. No thread starts here: the
        # worker starts in the process that serves, with its first request.
        start_async_worker()
