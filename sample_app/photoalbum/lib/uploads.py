"""Decide whether an uploaded file may enter the album.

Everything that comes from a browser is a guess: the name, the type, the size.
What counts is whether Pillow can read all of it.
"""

import secrets
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePath

from PIL import Image, UnidentifiedImageError

__all__ = [
    "MAX_FILES",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "MAX_REQUEST_BYTES",
    "AcceptedPicture",
    "RefusedUpload",
    "check",
    "in_megabytes",
    "summary",
]

MEGABYTE = 1024 * 1024
MAX_FILES = 50
MAX_FILE_BYTES = 25 * MEGABYTE
MAX_REQUEST_BYTES = 200 * MEGABYTE
#: a small file can unpack to a huge picture; 60 million is a good camera's
MAX_PIXELS = 60_000_000

#: what Pillow calls a format, and how we name a file of it
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}


class RefusedUpload(ValueError):
    """Raised when a file may not enter the album; says why in words for its owner."""


@dataclass(frozen=True)
class AcceptedPicture:
    """A file that was looked at and found to be a picture."""

    title: str
    file_name: str  #: made by us: what a browser sends as a name is no path of ours
    content: bytes
    width: int
    height: int


def check(file_name, stream):
    """Read an uploaded file and give an ``AcceptedPicture``.

    Raises RefusedUpload when it is too large, or no picture, or a broken one.
    """
    # One byte more than allowed is enough to know that it is too much.
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise RefusedUpload(f"is larger than {in_megabytes(MAX_FILE_BYTES)}")
    if not content:
        raise RefusedUpload("is empty")
    image_format, (width, height) = _look_at(content)
    return AcceptedPicture(
        title=_title_from(file_name),
        file_name=secrets.token_hex(12) + SUFFIXES[image_format],
        content=content,
        width=width,
        height=height,
    )


def _look_at(content):
    """Give format and size of a picture that can be read to its end."""
    try:
        with Image.open(BytesIO(content), formats=list(SUFFIXES)) as image:
            image_format, size = image.format, image.size
            if size[0] * size[1] > MAX_PIXELS:
                raise RefusedUpload(f"has more than {MAX_PIXELS // 1_000_000} million pixels")
            # A JPEG can be read at an eighth of its size: quick enough for a
            # request, and it still finds a file that breaks off in the middle.
            image.draft("RGB", (size[0] // 8, size[1] // 8))
            image.load()
    except UnidentifiedImageError as error:
        raise RefusedUpload("is not a JPEG, PNG, WebP or GIF picture") from error
    except Image.DecompressionBombError as error:
        raise RefusedUpload(f"has more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, RefusedUpload):
            raise
        # Pillow raises any of these, depending on the format.
        raise RefusedUpload("is damaged and cannot be read to its end") from error
    return image_format, size


def _title_from(file_name):
    """Make a title of a file name: ``C:\\fakepath\\my_holiday-1.jpg``: My holiday 1."""
    stem = PurePath(file_name.replace("\\", "/")).stem
    words = stem.replace("_", " ").replace("-", " ").split()
    title = " ".join(words)[:80] or "Picture"
    return title[0].upper() + title[1:]


def summary(refused):
    """Say in one sentence which files were refused; *refused*: pairs of name and reason."""
    # It travels in a cookie, and a cookie holds 4 KB.
    told = "; ".join(f"“{name[:60]}” {reason}" for name, reason in refused[:4])
    more = f"; and {len(refused) - 4} more" if len(refused) > 4 else ""
    return f"Not added: {told}{more}."


def in_megabytes(size_bytes):
    """Write a number of bytes for people."""
    return f"{size_bytes // MEGABYTE}\u00a0MB"  # a space that does not break
