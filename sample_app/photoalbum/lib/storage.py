"""The media folder: where picture files lie, and how they get there.

A file appears under its name complete or not at all: it is written under
another name and then renamed. The database says which files count; a file that
no row names (left behind by a job that ended in between) does no harm.
"""

import os
import tempfile
from pathlib import Path

import tg

__all__ = ["FOLDERS", "file_path", "make_folders", "remove", "save"]

FOLDERS = ("originals", "previews", "thumbnails", "sheets")


def make_folders(media_dir):
    """Make the folders that are missing under *media_dir*."""
    for folder in FOLDERS:
        (media_dir / folder).mkdir(parents=True, exist_ok=True)


def file_path(folder, name):
    """Give the path of the file *name*; *folder* is one of ``FOLDERS``.

    ``tg.config`` is that of the application, inside a job as in a request.
    """
    return Path(tg.config["photoalbum.media_dir"]) / folder / name


def remove(folder, name):
    """Remove the file *name*, if it is there."""
    file_path(folder, name).unlink(missing_ok=True)


def save(folder, name, content):
    """Write the bytes *content*; a file of that name is replaced in one step."""
    target = file_path(folder, name)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
