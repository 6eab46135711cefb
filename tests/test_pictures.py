"""The pictures of the pages are those that ``make screenshots`` takes, no more and no fewer."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from test_docs import DOCS, ROOT, docs_text

PICTURES = ROOT / "docs" / "pictures"
SCRIPT = ROOT / "tests" / "sample_app" / "test_screenshots.py"

#: A page with pictures is loaded over a telephone's network too.
MOST_BYTES = 100_000


def test_pages_show_the_pictures_that_the_script_takes() -> None:
    taken = set(re.findall(r'\btake\("([\w-]+)"', SCRIPT.read_text(encoding="utf-8")))
    shown = set(re.findall(r":: pictures/([\w-]+)\.png$", docs_text(), re.M))

    assert shown == taken
    assert {file.stem for file in PICTURES.iterdir()} == taken


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_picture_is_described_for_those_who_do_not_see_it(page) -> None:
    text = page.read_text(encoding="utf-8")

    assert text.count(".. image::") == len(re.findall(r"\.\. image:: .*\n +:alt: .{15,}", text))


@pytest.mark.parametrize("file", sorted(PICTURES.iterdir()), ids=lambda file: file.name)
def test_picture_is_of_modest_size(file) -> None:
    with Image.open(file) as picture:
        picture.verify()

    assert file.stat().st_size < MOST_BYTES
