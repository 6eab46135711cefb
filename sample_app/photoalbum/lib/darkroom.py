"""What the album does to pictures. Pillow only: no database, no files, no jobs.

Every function takes and gives pictures or bytes, so that a job can do all of its
work before it writes anything.
"""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

__all__ = [
    "Print",
    "as_jpeg",
    "average_colour",
    "brush",
    "contact_sheet",
    "fitted",
    "load",
    "preview",
    "thumbnail",
    "tiles",
]

PREVIEW_SIZE = (1600, 1600)  #: fits into
THUMBNAIL_SIZE = (480, 360)  #: exactly, cut from the middle
PAPER = "#fbfaf7"
INK = "#3d3d3a"


@dataclass(frozen=True)
class Print:
    """A finished thumbnail with the title that belongs under it."""

    title: str
    thumbnail: Image.Image


def load(path):
    """Read a picture completely and turn it the way the camera was held."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            # A JPEG knows no transparency: put the picture on white.
            paper = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(paper, upright.convert("RGBA"))
        return upright.convert("RGB")


def preview(image):
    """Make the picture fit a screen."""
    return fitted(image, PREVIEW_SIZE)


def fitted(image, size):
    """Give a copy that is no larger than *size*, its shape unchanged."""
    small = image.copy()
    small.thumbnail(size, Image.Resampling.LANCZOS)
    return small


def thumbnail(image):
    """Make the picture of the album page: small, of one shape, and crisp."""
    small = ImageOps.fit(image, THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return small.filter(ImageFilter.UnsharpMask(radius=1.2, percent=70, threshold=2))


def main_colours(image, number=5):
    """Give the colours that a picture has most of, such as "#4a7c9b", the most frequent first."""
    few = image.convert("RGB").quantize(number)
    palette = few.getpalette()
    counted = sorted(few.getcolors(), reverse=True)
    return ["#{:02x}{:02x}{:02x}".format(*palette[3 * at : 3 * at + 3]) for _, at in counted]


def average_colour(image):
    """Give the colour of the whole picture, as ``#rrggbb``."""
    red, green, blue = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return f"#{red:02x}{green:02x}{blue:02x}"


def as_jpeg(image, quality=88):
    """Give the bytes of a JPEG file."""
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True, progressive=True)
    return stream.getvalue()


def contact_sheet(prints, columns=3):
    """Lay the *prints* side by side on one sheet of paper."""
    columns = min(columns, len(prints))
    rows = -(-len(prints) // columns)
    margin, caption = 40, 56
    cell_width = THUMBNAIL_SIZE[0] + margin
    cell_height = THUMBNAIL_SIZE[1] + caption
    sheet = Image.new("RGB", (columns * cell_width + margin, rows * cell_height + margin), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=22)
    for number, one in enumerate(prints):
        left = margin + number % columns * cell_width
        top = margin + number // columns * cell_height
        sheet.paste(one.thumbnail, (left, top))
        pen.text((left, top + THUMBNAIL_SIZE[1] + 10), one.title[:36], INK, font)
    return sheet


def tiles(image, size):
    """Cut the area of *image* into boxes of at most *size* x *size*, row by row."""
    return [
        (left, top, min(left + size, image.width), min(top + size, image.height))
        for top in range(0, image.height, size)
        for left in range(0, image.width, size)
    ]


def brush(image, box, width):
    """Paint the part *box* of *image* anew, with a brush *width* pixels wide (odd)."""
    # Look a little beyond the edge, or the seams between the tiles would show.
    left, top, right, bottom = box
    rim = width
    outer = (
        max(left - rim, 0),
        max(top - rim, 0),
        min(right + rim, image.width),
        min(bottom + rim, image.height),
    )
    painted = image.crop(outer).filter(ImageFilter.ModeFilter(width))
    return painted.crop((left - outer[0], top - outer[1], right - outer[0], bottom - outer[1]))
