"""The texts of ``static/progress.js`` in the reader's language, as an attribute of an element.

The script has them in English; an English page has no such attribute.
"""

from __future__ import annotations

import json

from ..backends.brief import MOST_SHOWN_BEFORE
from .job_state import PHRASES, SENTENCES, before
from .texts import gettext, language


def texts() -> str | None:
    """Return the texts as JSON, by their names in the script; None for English."""
    if language() == "en":
        return None
    found: dict[str, object] = {
        name: gettext(message) for name, message in {**SENTENCES, **PHRASES}.items()
    }
    return json.dumps({**found, **_numbered()}, ensure_ascii=False, separators=(",", ":"))


def _numbered() -> dict[str, object]:
    """The forms of a sentence with a number, and for each number which of them it has."""
    forms: list[str] = []
    of_each = ""
    for number in range(MOST_SHOWN_BEFORE):
        form = before(number).replace(f"{number}", "%(number)s", 1)
        if form not in forms:
            forms.append(form)
        of_each += f"{forms.index(form)}"
    return {"before": forms, "forms": of_each}
