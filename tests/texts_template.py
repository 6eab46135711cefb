"""Write tgext/asyncjob/web/asyncjob.pot: every text of the pages, for an application to translate.

Run as ``make texts``, or from the top folder: ``python tests/texts_template.py``. Texts are read
from the modules of ``web``, from each ``Sentence`` of the others, and from the templates as Kajiki
compiles them. Places have no line
numbers, so that the file changes with the texts alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.pofile import write_po
from kajiki import FileLoader

import tgext.asyncjob.web

WEB = Path(tgext.asyncjob.web.__file__).resolve().parent
POT = WEB / "asyncjob.pot"

KEYWORDS: dict[str, Any] = {
    "_": None, "gettext": None, "marked": None, "sentence": None, "ngettext": (1, 2),
    "Sentence": None, "of_number": (1, 2),
}  # fmt: skip

Message = str | tuple[str, ...]

HEADER = """\
# Texts of the pages and progress elements of tgext.asyncjob. Merge them into the catalogue of the
# application: docs/translations.rst.
"""


def messages() -> Iterator[tuple[str, Message]]:
    """Every text, with the name of its file."""
    for path in sorted(WEB.glob("*.py")):
        if path.name != "texts.py":
            yield from ((path.name, each) for each in _messages_of(path.read_bytes()))
    for path in sorted(WEB.parent.rglob("*.py")):
        name = path.relative_to(WEB.parent).as_posix()
        if not path.is_relative_to(WEB) and "Sentence" in path.read_text(encoding="utf-8"):
            yield from ((f"../{name}", each) for each in _messages_of(path.read_bytes()))
    loader = FileLoader(WEB / "templates", force_mode="html5")
    for path in sorted((WEB / "templates").glob("*.xhtml")):
        compiled: str = loader.import_(path.name).py_text
        for found in _messages_of(compiled.encode()):
            yield f"templates/{path.name}", found


def _messages_of(source: bytes) -> Iterator[Message]:
    for _line, found, *_rest in extract("python", BytesIO(source), KEYWORDS):
        # as texts.of_template looks it up
        yield " ".join(found.split()) if isinstance(found, str) else tuple(found)


def catalogue() -> Catalog:
    made = Catalog(header_comment=HEADER, project="tgext.asyncjob", charset="utf-8")
    for name, found in messages():
        if any(sign.isalpha() for sign in str(found)):
            made.add(found, locations=[(name, None)])
    return made


def written() -> bytes:
    file = BytesIO()
    write_po(file, catalogue(), width=100, sort_output=True, omit_header=False)
    # when it was made is of no interest, and would be a change each time
    lines = file.getvalue().splitlines(keepends=True)
    return b"".join(line for line in lines if b"POT-Creation-Date" not in line)


if __name__ == "__main__":
    POT.write_bytes(written())
