"""For whom the elements of a page are rendered, and where the WebApplication is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from .rights import NOBODY, Rights
from .texts import Translations, TranslationsOf


class Visitor(NamedTuple):
    """The reader of a page."""

    rights: Rights = NOBODY
    base: str | None = None  #: the URL of the WebApplication; None: ``asyncjob.web_path``
    translations: TranslationsOf | None = None  #: of the page's language; None: English


#: Returns the reader of the page that this thread makes; TurboGears' wrapper sets it.
visitor_var: ContextVar[Callable[[], Visitor]] = ContextVar("asyncjob_visitor", default=Visitor)


@contextmanager
def as_visitor(
    rights: Rights, base: str | None = None, translations: Translations | None = None
) -> Iterator[None]:
    """Render the elements in the block for a user. In TurboGears that is done for each request.

    rights: those that the WebApplication will be given for the requests of this page.
    base: the URL of the WebApplication, without the host and without "/" at the end; None:
    the option ``web_path``.
    translations: what translates the texts of the elements; None: English.
    """
    source = None if translations is None else lambda: translations
    token = visitor_var.set(lambda: Visitor(rights, base, source))
    try:
        yield
    finally:
        visitor_var.reset(token)
