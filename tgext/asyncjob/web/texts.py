"""The texts of the pages in the reader's language, by the catalogue of the application.

A text is its own key, as gettext has it. ``asyncjob.pot`` lists all of them,
for an application to translate. Without a translation it is English.

    WebApplication ---> translated_by(what it was given for this request)
    element in a page of the application ---> translated_by(its visitor's)
    template, module ---> gettext, ngettext, sentence
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from gettext import NullTranslations
from typing import Any, Protocol

from markupsafe import Markup, escape

from ..sentence import Sentence


class Translations(Protocol):
    """What translates, such as a ``gettext.GNUTranslations``."""

    def gettext(self, message: str, /) -> str:
        """Return the translation of *message*; without one, *message*."""

    def ngettext(self, singular: str, plural: str, number: int, /) -> str:
        """Return the translated form for a *number*."""


#: Returns the translations for one request; None: English.
TranslationsOf = Callable[[], "Translations | None"]

_ENGLISH = NullTranslations()

_source: ContextVar[TranslationsOf | None] = ContextVar("asyncjob_translations", default=None)

#: A text that every catalogue with ours has: if it is as in English, so is the page.
_SIGN = "Waiting to try again"


@contextmanager
def translated_by(source: TranslationsOf | None) -> Iterator[None]:
    """Translate the texts in the block. source: called at each text; None: English."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


def _translations() -> Translations:
    source = _source.get()
    found = None if source is None else source()
    return _ENGLISH if found is None else found


def marked(message: str) -> str:
    """Return *message* as it is; it is listed, and translated later."""
    return message


def gettext(message: str, /, **values: Any) -> str:
    """Return a text in the reader's language, with *values* for its ``%(name)s``."""
    return _filled(_translations().gettext(message), message, values)


def ngettext(singular: str, plural: str, number: int, /, **values: Any) -> str:
    """Return the form of a text for *number*, which is ``%(number)s`` unless *values* has it."""
    found = _translations().ngettext(singular, plural, number)
    english = singular if number == 1 else plural
    return _filled(found, english, {"number": f"{number:,}", **values})


def sentence(message: str, /, **values: Any) -> Markup:
    """Return a text with HTML for some of its ``%(name)s``; values that are no Markup are
    escaped."""
    escaped = {name: escape(value) for name, value in values.items()}
    return Markup(_filled(str(escape(_translations().gettext(message))), message, escaped))


def said(text: str) -> str:
    """Return a ``Sentence`` in the reader's language; another text as it is."""
    if not isinstance(text, Sentence):
        return text
    values = {
        name: said(value) if isinstance(value, Sentence) else value
        for name, value in text.values.items()
    }
    if text.plural is None:
        return gettext(text.text, **values)
    return ngettext(text.text, text.plural, text.number, **values)


def _filled(found: str, english: str, values: dict[str, Any]) -> str:
    if not values:
        return found
    try:
        return found % values
    except (KeyError, TypeError, ValueError):  # the translation has lost or broken a name
        return english % values


def of_template(text: str, /, **values: Any) -> str:
    """Translate a text that stands in a template, but not the white space around it."""
    core = " ".join(text.split())
    begin, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{begin}{gettext(core, **values)}{end}"


def language() -> str:
    """Return the language of the texts as HTML names it: "en", "pt-BR"."""
    translations = _translations()
    if translations.gettext(_SIGN) == _SIGN:
        return "en"
    info: dict[str, str] = getattr(translations, "info", dict)() or {}
    return info.get("language", "").replace("_", "-") or "und"
