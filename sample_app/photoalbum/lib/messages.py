"""A message for the next page, which stays there when that page is loaded again.

TurboGears' ``flash`` is gone once it was shown, and the page of a job loads itself again when the
job begins or ends: nobody would have read it. So a message names its page, and stays a while.
"""

import json
from urllib.parse import quote, unquote

from tg import redirect, request, response, url

__all__ = ["message_here", "redirect_with"]

COOKIE = "message"
SHOWN_SECONDS = 60


def redirect_with(path, message, status="ok"):
    """Go to *path* and show *message* there. status: "ok" or "error"."""
    content = json.dumps({"path": url(path), "message": message, "status": status})
    response.set_cookie(
        COOKIE, quote(content), max_age=SHOWN_SECONDS, httponly=True, samesite="lax"
    )
    redirect(path)


def message_here():
    """Give the message for the page that is asked for, with ``message`` and ``status``; or None."""
    try:
        found = json.loads(unquote(request.cookies[COOKIE]))
        return found if found["path"] == request.path else None
    except (KeyError, TypeError, ValueError):  # there is none, or somebody has made one up
        return None
