"""The static files: their names stay, and with a version in the query a browser may keep them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from webob import Response

if TYPE_CHECKING:
    from .visit import Visit

FOLDER = Path(__file__).resolve().parent / "static"

#: A year, for a URL with the version; an hour for one without.
KEPT = "public, max-age=31536000, immutable"
KEPT_SHORTLY = "public, max-age=3600"

_TYPES = {".js": "text/javascript", ".css": "text/css"}


class StaticFile(NamedTuple):
    """One file."""

    content: bytes
    content_type: str
    version: str  #: changes with the content


@cache
def static_file(name: str) -> StaticFile:
    """Return the file *name*, a name of the table of routes."""
    path = FOLDER / name
    content = path.read_bytes()
    version = hashlib.sha256(content).hexdigest()[:12]
    return StaticFile(content, _TYPES[path.suffix], version)


def url_of(base: str, name: str) -> str:
    """Return the URL of a file, with its version; *base*: that of the WebApplication."""
    return f"{base}/static/{name}?v={static_file(name).version}"


def send(visit: Visit) -> Response:
    """Answer with the file that the URL names."""
    found = static_file(visit.request.path_info.rpartition("/")[2])
    response = Response(body=found.content, content_type=found.content_type, charset="utf-8")
    # During a deploy another version may have made the page: it must not be kept as that one.
    is_this_one = visit.asked("v") == found.version
    response.headers["Cache-Control"] = KEPT if is_this_one else KEPT_SHORTLY
    return response
