"""Draws small bar charts as SVG, without a script: numbers go in, elements come out.

Colours are those of ``static/dashboard.css``, by the class of an element. A drawing is stretched to
the width of its place, so it has no text: that stands around it, and the numbers in a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

#: The size of a bar with its gap, and the height of a drawing, in units of the drawing.
STEP, BAR, HEIGHT = 5, 4, 60

#: The least height of a bar that is not nothing, and the thickness of a mark.
LEAST, MARK = 2, 3

#: The duration at the foot of a logarithmic scale, in seconds.
FOOT_SECONDS = 0.001

Values = Sequence[float | None]


def bars(name: str, kind: str, title: str, description: str, values: Values) -> Markup:
    """Draw a bar for each value from 0 on; None: no bar.

    name: of the chart, once in a page. kind: a class for its colour. title, description: what
    those hear who do not see it.
    """
    scale = _linear(values)
    drawn = Markup('<path class="{}" d="{}"/>').format(kind, _bars(values, scale))
    return _drawing(name, title, description, len(values), drawn)


def durations(name: str, title: str, description: str, values: Values, marks: Values) -> Markup:
    """Draw durations in seconds on a logarithmic scale: a bar for each of *values*, and a mark for
    each of *marks*, which are not smaller. None: there is none."""
    scale = _logarithmic(marks)
    drawn = Markup('<path class="bar" d="{}"/><path class="mark-line" d="{}"/>').format(
        _bars(values, scale), _marks(marks, scale)
    )
    return _drawing(name, title, description, len(values), drawn)


def _drawing(name: str, title: str, description: str, number: int, drawn: Markup) -> Markup:
    return Markup(
        '<svg role="img" aria-labelledby="{0}-title {0}-text" viewBox="0 0 {1} {2}" '
        'preserveAspectRatio="none"><title id="{0}-title">{3}</title>'
        '<desc id="{0}-text">{4}</desc>{5}</svg>'
    ).format(name, STEP * number, HEIGHT, title, description, drawn)


Scale = Callable[[float], int]


def _linear(values: Values) -> Scale:
    most = max((each for each in values if each is not None), default=0) or 1
    return lambda value: round(HEIGHT * value / most)


def _logarithmic(values: Values) -> Scale:
    most = max((each for each in values if each is not None), default=0.0)
    span = math.log(max(most, 1.0) / FOOT_SECONDS)
    return lambda value: round(HEIGHT * math.log(max(value, FOOT_SECONDS) / FOOT_SECONDS) / span)


def _bars(values: Values, scale: Scale) -> str:
    return "".join(
        f"M{STEP * place} {HEIGHT}v-{max(scale(value), LEAST)}h{BAR}V{HEIGHT}z"
        for place, value in enumerate(values)
        if value
    )


def _marks(values: Values, scale: Scale) -> str:
    return "".join(
        f"M{STEP * place} {max(HEIGHT - scale(value), 0)}h{BAR}v{MARK}h-{BAR}z"
        for place, value in enumerate(values)
        if value
    )
