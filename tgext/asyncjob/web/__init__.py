"""Progress elements and a dashboard, as one WSGI application: ``WebApplication(queue)``.

    GET progress ---> results.briefs ---> JSON    static/progress.js asks, for all bars of a page
    asyncjob_progress(uid) ---> the element       rendered into a page of the application
    POST cancel, GET reload                       the element's buttons, without JavaScript too
    GET / ---> *_page ---> dashboard.page         a page; static/dashboard.js asks for it again

This package knows no TurboGears, and keeps no state: any process may answer. What each URL may be
used by is in ``routes``, who somebody is comes from the application.
"""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import MissingExtra

for _needed in ("webob", "kajiki", "markupsafe", "itsdangerous"):
    if find_spec(_needed) is None:
        raise MissingExtra("tgext.asyncjob.web", "web")

from .application import WebApplication  # noqa: E402 - it needs these packages
from .element import asyncjob_progress  # noqa: E402
from .rights import Rights  # noqa: E402
from .visitor import as_visitor  # noqa: E402

__all__ = ["Rights", "WebApplication", "as_visitor", "asyncjob_progress"]
