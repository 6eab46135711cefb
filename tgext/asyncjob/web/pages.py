"""Renders the package's own pages, by a Kajiki loader of its own: the host may have no renderer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webob import Response

from .statics import url_of
from .texts import language, ngettext, of_template, said, sentence

if TYPE_CHECKING:
    from .visit import Visit

#: What templates translate by: their own text, and what they compute.
_GLOBALS = {
    "gettext": of_template,
    "ngettext": ngettext,
    "sentence": sentence,
    "said": said,
    "language": language,
}

FOLDER = Path(__file__).resolve().parent / "templates"


@cache
def _loader() -> Any:
    # At the first page: most processes of an application never show one.
    from kajiki import FileLoader

    # TurboGears sets one for all of Kajiki that needs a request of its own. Set here, every
    # template has ours, also one that another extends.
    return FileLoader(FOLDER, force_mode="html5", base_globals=_GLOBALS)


def render(template: str, visit: Visit, status: int = 200, **variables: Any) -> Response:
    """Answer with a page. template: the name of a file of ``templates/``."""
    found = _loader().import_(template)
    css = url_of(visit.base, "progress.css")
    text = found({"css": css, **variables}).render()
    return Response(text=text, status=status, content_type="text/html", charset="utf-8")


def say(visit: Visit, status: int, title: str, sentence: str) -> Response:
    """Answer with a page of one sentence."""
    return render("message.xhtml", visit, status, title=title, sentence=sentence)
