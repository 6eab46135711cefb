"""Paths as a browser has them: where the application is, and a response that leads to another.

Nothing here has the host: which one a browser knows may be known to a proxy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from webob import Request, Response

#: What stands in a path as it is, and the ASCII of a URL.
_PLAIN = "/~!$&'()*+,;=:@"
_ASCII = "".join(map(chr, range(33, 127)))


def base_of(environ: dict[str, Any]) -> str:
    """Return SCRIPT_NAME as a URL has it: ASCII, with escapes for the rest."""
    # WSGI has the bytes of a path as latin-1.
    return quote(environ.get("SCRIPT_NAME", "").encode("latin-1"), safe=_PLAIN)


class LocalResponse(Response):  # type: ignore[misc]
    """A response whose Location stays the path that it is.

    WebOb puts scheme and host of the request before it. Behind a proxy those may be of the inside,
    and a browser would be led to a host that it cannot reach.
    """

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        location = self.headers.get("Location")

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            kept = [(name, location if name == "Location" else value) for name, value in headers]
            return start_response(status, kept, *more)

        found: Iterable[bytes] = super().__call__(environ, start)
        return found


class LocalRequest(Request):  # type: ignore[misc]
    """A request whose ``get_response`` gives a LocalResponse."""

    ResponseClass = LocalResponse


def led_to(path: str) -> Response:
    """Answer that the browser is to go on to a path of this site, which has a query perhaps.

    A header is ASCII: what else is in *path* becomes escapes, as in the browser's own address.
    """
    return LocalResponse(status=303, location=quote(path, safe=_ASCII, errors="replace"))
