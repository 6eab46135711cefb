"""The decision records: each is short and has its three parts, and the index names all.

`make docs` checks their reST and their links.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "decisions"
INDEX = FOLDER / "index.rst"
RECORDS = sorted(path for path in FOLDER.glob("*.rst") if path != INDEX)

MOST_LINES = 20
PARTS = ["Context", "Decision", "Not promised"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_record_is_short_and_says_context_decision_and_what_is_not_promised(record: Path) -> None:
    text = record.read_text(encoding="utf-8")

    assert len(text.splitlines()) <= MOST_LINES
    assert re.findall(r"^\*\*([\w ]+)\.\*\* \S", text, re.M) == PARTS
    assert text.startswith(f"{record.stem[:4]}: ")


def test_records_are_numbered_each_once() -> None:
    numbers = [record.stem[:4] for record in RECORDS]

    assert len(RECORDS) > 0
    assert len(set(numbers)) == len(numbers)
    assert [each for each in numbers if not each.isdigit()] == []


def test_index_has_the_records_in_their_order() -> None:
    listed = re.findall(r"^   (\d\S+)$", INDEX.read_text(encoding="utf-8"), re.M)

    assert listed == [record.stem for record in RECORDS]
