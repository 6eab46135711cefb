"""The picture of the layers is the one that the imports make."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from layers_picture import PICTURE, picture, reduced
from test_layers import LAYERS


@pytest.fixture(scope="module")
def drawn() -> str:
    return picture()


@pytest.mark.slow
def test_picture_of_the_layers_is_up_to_date(drawn: str) -> None:
    stored = PICTURE.read_text(encoding="utf-8")

    assert stored == drawn, "make docs/layers.svg again: python tests/layers_picture.py"


def test_picture_shows_every_part(drawn: str) -> None:
    shown = re.findall(r'text-anchor="middle">([\w/.]+)<', drawn)

    parts = [name.removesuffix(".py").strip("/").replace("/", ".") for name in shown]
    assert sorted(parts) == sorted(LAYERS.split())


def test_boxes_of_the_picture_do_not_overlap(drawn: str) -> None:
    found = re.findall(r'class="part" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawn)

    boxes = [tuple(map(float, each)) for each in found]
    assert len(boxes) == len(LAYERS.split())
    assert [
        (one, other)
        for one, other in combinations(sorted(boxes), 2)
        if one[1] == other[1] and one[0] + one[2] > other[0]
    ] == []


def test_arrow_that_follows_from_others_is_left_out() -> None:
    edges = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}}

    assert reduced(edges) == {"a": {"b"}, "b": {"c"}, "c": {"d"}}
