"""Paint landscapes, so that the album can be tried without any picture at hand.

They are large on purpose (8 million pixels, as from a camera): a background job
should have something to do.
"""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

__all__ = ["SCENES", "SIZE", "Scene", "paint"]

SIZE = (3264, 2448)


@dataclass(frozen=True)
class Scene:
    """What a landscape looks like: colours from top to bottom, far to near."""

    title: str
    sky: tuple
    hills: tuple
    light: str  #: colour of sun or moon
    light_at: tuple  #: its place, in parts of width and height
    light_size: float  #: its radius, in parts of the height
    roughness: float  #: 0 gives dunes, 1 gives mountains
    stars: int = 0


SCENES = (
    Scene(
        "Harbour of mist",
        ("#f7d9c4", "#f2b9a0", "#d98f8f", "#a8748c"),
        ("#b58a9c", "#8d6c88", "#5f4f72", "#35324f"),
        "#fff3df",
        (0.68, 0.40),
        0.075,
        0.35,
    ),
    Scene(
        "Two hours north",
        ("#8fc4e8", "#b5dcf0", "#e4f1f3"),
        ("#9db9c9", "#6f97a8", "#3f7173", "#1f4a44"),
        "#fffbe8",
        (0.22, 0.20),
        0.055,
        1.0,
    ),
    Scene(
        "Dunes at five",
        ("#ffd98e", "#ffbd75", "#f7955f", "#d9705a"),
        ("#e29a66", "#c9774c", "#a1543a", "#6f3529"),
        "#fff6d6",
        (0.35, 0.46),
        0.095,
        0.05,
    ),
    Scene(
        "Polar night",
        ("#0b1033", "#152456", "#1f4a6e", "#3f8f8a"),
        ("#22496a", "#17345a", "#0f2244", "#08142c"),
        "#e9f0ff",
        (0.78, 0.18),
        0.04,
        0.8,
        900,
    ),
    Scene(
        "Meadow, July",
        ("#5fb3e6", "#9ed3ef", "#dff0e6"),
        ("#a9cf95", "#82b86c", "#5a984a", "#356f35"),
        "#fffde3",
        (0.60, 0.18),
        0.06,
        0.15,
    ),
    Scene(
        "Vineyard, late",
        ("#6d5a9c", "#b0739f", "#ec9a8b", "#ffd0a0"),
        ("#8f6391", "#6a4a7c", "#463661", "#2a2444"),
        "#ffe7c2",
        (0.50, 0.52),
        0.085,
        0.5,
    ),
)


def paint(scene):
    """Paint the *scene*: the same one looks the same every time."""
    dice = random.Random(scene.title)
    image = _sky(scene.sky)
    _stars(image, scene.stars, dice)
    image = _light(image, scene)
    for distance, colour in enumerate(scene.hills):
        _hill(image, colour, distance, len(scene.hills), scene.roughness, dice)
    return _grain(image)


def _sky(colours):
    # One column of pixels, one pixel for each colour; stretching it blends them.
    column = Image.new("RGB", (1, len(colours)))
    for row, colour in enumerate(colours):
        column.paste(colour, (0, row, 1, row + 1))
    return column.resize(SIZE, Image.Resampling.BICUBIC)


def _stars(image, number, dice):
    pen = ImageDraw.Draw(image)
    for _ in range(number):
        x, y = dice.randrange(SIZE[0]), int(SIZE[1] * 0.6 * dice.random() ** 1.3)
        size, glow = dice.choice((1, 1, 2, 3)), dice.randrange(120, 256)
        pen.ellipse((x, y, x + size, y + size), (glow, glow, 255))


def _light(image, scene):
    x, y = SIZE[0] * scene.light_at[0], SIZE[1] * scene.light_at[1]
    radius = SIZE[1] * scene.light_size
    disc = Image.new("L", (SIZE[0] // 8, SIZE[1] // 8))
    pen = ImageDraw.Draw(disc)
    for times, strength in ((5, 26), (3, 50), (1.7, 86)):
        reach = radius * times
        pen.ellipse([v / 8 for v in (x - reach, y - reach, x + reach, y + reach)], strength)
    halo = disc.filter(ImageFilter.GaussianBlur(radius / 10)).resize(SIZE)
    ImageDraw.Draw(halo).ellipse((x - radius, y - radius, x + radius, y + radius), 250)
    return Image.composite(Image.new("RGB", SIZE, scene.light), image, halo)


def _hill(image, colour, distance, count, roughness, dice):
    base = SIZE[1] * (0.56 + 0.36 * distance / count)
    waves = [
        (
            dice.uniform(0.6, 1.6) * 2**octave,
            dice.uniform(0, math.tau),
            SIZE[1] * 0.085 / 2**octave * (1 if octave < 2 else roughness),
        )
        for octave in range(7)
    ]
    outline = [
        (
            x,
            base
            + sum(
                height * math.sin(math.tau * turns * x / SIZE[0] + shift)
                for turns, shift, height in waves
            ),
        )
        for x in range(0, SIZE[0] + 8, 8)
    ]
    shape = [(0, SIZE[1]), *outline, (SIZE[0] + 8, SIZE[1])]
    ImageDraw.Draw(image).polygon(shape, colour)


def _grain(image):
    # A little noise, as of film: a perfectly smooth sky shows stripes as a JPEG.
    noise = Image.effect_noise((SIZE[0] // 2, SIZE[1] // 2), 14).resize(SIZE)
    return ImageChops.overlay(image, noise.convert("RGB"))
