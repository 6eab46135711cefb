"""Draw ``docs/layers.svg`` from the imports of the package: ``python tests/layers_picture.py``.

Layers are bands, parts are boxes. An arrow is an import; one that also follows from others is left
out, and so are all arrows to the model, which every part may import. Rows and names of layers are
those of the table in ARCHITECTURE.md. ``test_layers_picture.py`` compares the file with what this
makes, so it uses nothing but the standard library and decides nothing by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum
from pathlib import Path

from test_layers import SOURCE, Layers, imports_of

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "layers.svg"

#: The layer to which no arrows are drawn.
MODEL = "model"

# Pixels. CHARACTER is the width of one in the monospaced font of the parts.
WIDTH, LABELS, MARGIN = 960, 190, 16
BOX, GAP, MODEL_GAP = 28, 36, 8
CHARACTER, PADDING, APART, LANE = 8.0, 20, 26, 12

NOTE = "An arrow: imports. Left out: what follows from other arrows, and all arrows to the model."

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
  <title>The layers of tgext.asyncjob and the imports between its parts</title>
  <!-- Made by tests/layers_picture.py from the imports: do not edit. -->
  <style>
    text {{ font: 13px "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2937 }}
    .label {{ font: 13px "DejaVu Sans", Verdana, sans-serif; fill: #475569 }}
    .note {{ font: 12px "DejaVu Sans", Verdana, sans-serif; fill: #475569 }}
    .band {{ fill: #eef2f7 }}
    .part {{ fill: #ffffff; stroke: #64748b }}
    .import {{ fill: none; stroke: #3b6ea5; stroke-width: 1.2 }}
    .head {{ fill: #3b6ea5 }}
  </style>
  <marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"
      orient="auto"><path class="head" d="M0 0.5 L8 4 L0 7.5 z"/></marker>
  <rect width="{width}" height="{height}" fill="#ffffff"/>
  {shapes}
</svg>
"""


@dataclass
class Node:
    """A part in its row, or the place where an arrow passes a row."""

    name: str
    width: float
    is_part: bool = True
    x: float = 0.0  #: of its middle
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)


Row = list[Node]


# -- what is drawn


def layers_of(text: str) -> list[tuple[str, list[list[str]]]]:
    """The layers of ARCHITECTURE.md from top to bottom: a name, and rows of files and folders."""
    found: list[tuple[str, list[list[str]]]] = []
    table = text.partition("## Layers")[2].partition("\n## ")[0]
    for line in [line for line in table.splitlines() if line.startswith("| ")][1:]:
        _, label, parts, *_ = (cell.strip() for cell in line.split("|"))
        if label:
            found.append((label, []))
        found[-1][1].append(re.findall(r"`([\w/.]+)`", parts))
    return found


def part_named(shown: str) -> str:
    """``backends/sql/`` is the part ``backends.sql``."""
    return shown.removesuffix(".py").strip("/").replace("/", ".")


def imported() -> dict[str, set[str]]:
    """The parts that each part imports."""
    layers, found = Layers(), {}
    for each in imports_of(SOURCE):
        importer, target = layers.part_of(each.importer), layers.part_of(each.target)
        if each.ours and not each.is_listed and importer and target and importer != target:
            found.setdefault(importer, set()).add(target)
    return found


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same without the edges that follow from others."""

    def reached(part: str) -> set[str]:
        return {part}.union(*(reached(each) for each in edges.get(part, ())))

    return {
        part: {
            target
            for target in targets
            if not any(target in reached(other) for other in targets - {target})
        }
        for part, targets in edges.items()
    }


# -- where it is drawn


def rows_of(names: Sequence[Sequence[str]], edges: dict[str, set[str]]) -> list[Row]:
    """The rows with what passes them; neighbours are nodes of adjacent rows."""
    rows = [[Node(name, CHARACTER * len(name) + PADDING) for name in row] for row in names]
    at = {part_named(node.name): (number, node) for number, row in enumerate(rows) for node in row}
    for part, (first, node) in list(at.items()):
        for target in sorted(edges.get(part, set()) & at.keys(), key=list(at).index):
            last, end = at[target]
            chain = [node]
            for row in rows[first + 1 : last]:
                row.append(Node("", LANE, is_part=False))
                chain.append(row[-1])
            for upper, lower in pairwise([*chain, end]):
                upper.below.append(lower)
                lower.above.append(upper)
    return rows


def order(rows: list[Row]) -> None:
    """Sort each row by the middle of its neighbours, for as few crossings as that gives."""
    best, fewest = [list(row) for row in rows], crossings(rows)
    for sweep in range(24):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            sort(row, rows, downwards=downwards)
        if crossings(rows) < fewest:
            best, fewest = [list(row) for row in rows], crossings(rows)
    rows[:] = best
    while exchange_neighbours(rows):
        pass


def sort(row: Row, rows: list[Row], *, downwards: bool) -> None:
    """Sort a row by the middle of its neighbours in the row above, or in the one below."""
    places = {id(node): place for each in rows for place, node in enumerate(each)}

    def wanted(node: Node) -> float:
        neighbours = node.above if downwards else node.below
        return mean([places[id(each)] for each in neighbours], places[id(node)])

    row.sort(key=wanted)


def exchange_neighbours(rows: list[Row]) -> bool:
    """Exchange the first two neighbours that cross less the other way round; False: none do."""
    fewest = crossings(rows)
    for row in rows:
        for at in range(len(row) - 1):
            row[at : at + 2] = row[at + 1], row[at]
            if crossings(rows) < fewest:
                return True
            row[at : at + 2] = row[at + 1], row[at]
    return False


def crossings(rows: list[Row]) -> int:
    count = 0
    for upper, lower in pairwise(rows):
        places = {id(node): place for place, node in enumerate(lower)}
        ends = [end for node in upper for end in sorted(places[id(each)] for each in node.below)]
        count += sum(left > right for at, left in enumerate(ends) for right in ends[at:])
    return count


def place(rows: list[Row]) -> None:
    """Give each node its x: near its neighbours, and apart from those beside it."""
    middle = (LABELS + WIDTH) / 2
    for row in rows:
        spread(row, [middle] * len(row))
    for round_number in range(400):
        for row in rows if round_number % 2 == 0 else reversed(rows):
            neighbours = [[each.x for each in (*node.above, *node.below)] for node in row]
            spread(row, [mean(each, middle) for each in neighbours])
    for row in rows:
        for node in row:
            node.x = round(node.x)


def spread(row: Row, wanted: Sequence[float]) -> None:
    """Place a row in its order, each node as near to where it is wanted as the others let it.

    That is an isotonic regression: blocks of nodes that touch share the mean of what they want.
    """
    offsets, blocks = [0.0], []
    for left, right in pairwise(row):
        apart = APART if left.is_part and right.is_part else LANE
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + apart)
    for want, offset in zip(wanted, offsets, strict=True):
        blocks.append([want - offset])
        while len(blocks) > 1 and mean(blocks[-2]) > mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    starts = [mean(block) for block in blocks for _ in block]
    for node, start, offset in zip(row, starts, offsets, strict=True):
        node.x = start + offset
    if row:
        over = max(0.0, row[-1].x + row[-1].width / 2 - (WIDTH - 2 * MARGIN))
        under = max(0.0, LABELS - (row[0].x - row[0].width / 2))
        for node in row:
            node.x += under - over


def mean(values: Sequence[float], otherwise: float = 0.0) -> float:
    # Exact, as sum() of floats depends on the version of Python.
    return fsum(values) / len(values) if values else otherwise


# -- the drawing


def picture() -> str:
    """The text of the SVG."""
    layers = layers_of((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    rows = rows_of([row for label, part in layers if label != MODEL for row in part],
                   reduced(imported()))  # fmt: skip
    order(rows)
    place(rows)
    model = rows_of([row for label, part in layers if label == MODEL for row in part], {})
    place(model)

    tops = [MARGIN + 8 + number * (BOX + GAP) for number in range(len(rows))]
    first = tops[-1] + BOX + GAP
    tops += [first + number * (BOX + MODEL_GAP) for number in range(len(model))]
    height = tops[-1] + BOX + 56
    shapes = bands(layers, tops)
    for row, top in zip(rows, tops, strict=False):
        shapes += arrows(row, top)
    for row, top in zip([*rows, *model], tops, strict=True):
        shapes += [shape for node in row if node.is_part for shape in box(node, top)]
    shapes.append(f'<text class="note" x="{MARGIN + 10}" y="{height - 20}">{NOTE}</text>')
    return SVG.format(width=WIDTH, height=height, shapes="\n  ".join(shapes))


def bands(layers: Iterable[tuple[str, list[list[str]]]], tops: Sequence[float]) -> list[str]:
    shapes, number = [], 0
    for label, rows in layers:
        top, bottom = tops[number] - 8, tops[number + len(rows) - 1] + BOX + 8
        number += len(rows)
        shapes.append(
            f'<rect class="band" x="{MARGIN}" y="{top:g}" width="{WIDTH - 2 * MARGIN}" '
            f'height="{bottom - top:g}" rx="6"/>'
        )
        shapes.append(
            f'<text class="label" x="{MARGIN + 10}" y="{(top + bottom) / 2 + 5:g}">{label}</text>'
        )
    return shapes


def box(node: Node, top: float) -> list[str]:
    left, size = node.x - node.width / 2, f'width="{node.width:g}" height="{BOX}"'
    return [
        f'<rect class="part" x="{left:g}" y="{top:g}" {size} rx="4"/>',
        f'<text x="{node.x:g}" y="{top + 19:g}" text-anchor="middle">{node.name}</text>',
    ]


def arrows(row: Row, top: float) -> list[str]:
    """What leaves a row downwards; an arrow that passes it goes through."""
    shapes = []
    for node in row:
        for end in node.below:
            x, to = port(node, node.below, end), port(end, end.above, node)
            begin, middle, bottom = top + BOX, top + BOX + GAP / 2, top + BOX + GAP
            path = f"M{x:g} {begin:g} C{x:g} {middle:g} {to:g} {middle:g} {to:g} {bottom:g}"
            if not end.is_part:
                path += f" V{bottom + BOX:g}"
            marker = ' marker-end="url(#head)"' if end.is_part else ""
            shapes.append(f'<path class="import" d="{path}"{marker}/>')
    return shapes


def port(node: Node, others: Sequence[Node], other: Node) -> float:
    """Where on a box the arrow from or to *other* is: beside each other, in the others' order."""
    if not node.is_part:
        return node.x
    ordered = sorted(others, key=lambda each: each.x)
    step = min(14.0, (node.width - 16) / max(len(ordered) - 1, 1))
    return node.x + (ordered.index(other) - (len(ordered) - 1) / 2) * step


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
