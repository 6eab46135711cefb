"""The hook as a Django view, and the worker that uses it; for ``urls.py`` see ``urls``.

Settings: SLACKER_SERVER, ``host:port`` or a URL, "127.0.0.1:8000" by default; SLACKER_SECRET, by
default SECRET_KEY; SLACKER_ALLOW, a list of dotted names, by default everything may be called;
SLACKER_CLAIM, the hook's ``claim``. Each call is one transaction of the default database.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from ..remote import HttpHook, HttpWorker

#: Where ``path("slacker/", include("tgext.asyncjob.slackers.django_backend.urls"))`` puts it.
PATH = "/slacker/"

SERVER = "127.0.0.1:8000"


class DjangoWorker(HttpWorker):
    """An HttpWorker with the values of Django's settings.

    server: None: SLACKER_SERVER. path: the path of the hook in ``urls.py``; None: PATH.
    options: those of HttpExecutor.
    """

    def __init__(self, server: str | None = None, path: str | None = None, **options: Any) -> None:
        options.setdefault("secret", _secret())
        super().__init__(
            server or str(getattr(settings, "SLACKER_SERVER", SERVER)), path or PATH, **options
        )


@csrf_exempt  # type: ignore[untyped-decorator] # calls are signed, and come from no form
def hook(request: HttpRequest) -> HttpResponse:
    """Make one call, and answer with its result."""
    status, kind, body = _hook().answer(
        str(request.method), request.META.get("CONTENT_LENGTH"), request.read
    )
    return HttpResponse(body, status=status.value, content_type=kind)


@functools.lru_cache(maxsize=1)
def _hook() -> HttpHook:
    return HttpHook(
        _secret(),
        allow=getattr(settings, "SLACKER_ALLOW", None),
        claim=getattr(settings, "SLACKER_CLAIM", None),
        scope=transaction.atomic if settings.DATABASES else nullcontext,
    )


def _secret() -> str:
    return str(getattr(settings, "SLACKER_SECRET", None) or settings.SECRET_KEY)
