"""Whether a request that changes something comes from a page of this site."""

from __future__ import annotations

from urllib.parse import urlsplit

from webob import Request

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def comes_from_elsewhere(request: Request) -> bool | None:
    """Return whether a page of another site has sent *request*; None if the browser does not say.

    Browsers say it by ``Sec-Fetch-Site``, to https and localhost only; else by ``Origin``, which is
    compared with ``Host`` without the scheme, since a proxy may have ended TLS.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return bool(site != "same-origin")
    origin = request.headers.get("Origin")
    return None if origin is None else not is_of_host(origin, request)


def is_of_host(url: str, request: Request) -> bool:
    """Whether an absolute http or https URL has the host and port that *request* was sent to."""
    try:
        parts = urlsplit(url)
        port = _DEFAULT_PORTS[parts.scheme]
    except (KeyError, ValueError):
        return False  # also "null", which a browser sends for a page without an origin
    host: str = request.headers.get("Host", "")
    given = parts.netloc.lower().removesuffix(port)
    return bool(given) and given == host.lower().removesuffix(port)


def is_local(url: str) -> bool:
    """Whether a browser takes *url* as a path of the same site, whatever page it is on."""
    # "//host" and "/\\host" name another host; browsers drop tabs and line ends from a URL.
    return (
        url.startswith("/")
        and not url.startswith(("//", "/\\"))
        and not any(ord(each) < 33 or each == "\x7f" for each in url)
    )
