"""The jobs of the album: what runs in the background.

Three habits keep a job friendly to everybody else:

* It gets ids, not objects. An object belongs to the request that loaded it.
* It computes first and writes last. A database has a queue of writers (SQLite:
  one at a time), and a job that writes early keeps it waiting until it ends.
* It reports what it does. Each report is also the place where a cancellation
  takes effect.

Each job has a database session and a transaction of its own. It is committed when
the function returns and rolled back when it raises: no commit stands here.
"""

import secrets
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from photoalbum.lib import darkroom, samples, storage
from photoalbum.model import ContactSheet, DBSession, Picture
from tgext.asyncjob import (
    asyncjob_running_uid,
    asyncjob_set_progress,
    asyncjob_track,
    task,
)

__all__ = [
    "DamagedPicture",
    "RemovedPicture",
    "add_samples",
    "develop",
    "paint_in_oil",
    "read_damaged",
    "remove_files",
    "title_of",
]

STEPS_TO_DEVELOP = 3  #: as many as _develop begins
TILE_SIZE = 128  #: pixels; some 500 tiles a picture, each some 20 ms of work
CANVAS_SIZE = (3300, 3300)  #: pixels at most, some 20 s of work
BRUSH_WIDTHS = (17, 9)  #: pixels; a broad first coat, then a finer one


class DamagedPicture(ValueError):
    """Raised when a picture file breaks off in the middle."""


class RemovedPicture(LookupError):
    """Raised when a picture was removed before a job could begin with it."""


@dataclass(frozen=True)
class Developed:
    """What the darkroom made of one picture, ready to be written."""

    preview: bytes
    thumbnail: bytes
    colour: str
    print: darkroom.Print


class Steps:
    """Count the steps of a job and report each one as it begins."""

    def __init__(self, total):
        self.total = total
        self.done = 0

    def begin(self, description):
        """Report that *description* is being done; everything before it is."""
        asyncjob_set_progress(self.done, description, total=self.total)
        self.done += 1

    def end(self):
        """Report that all is done but the writing."""
        asyncjob_set_progress(self.total, "Filing everything", total=self.total)


@task(timeout=600)
def develop(picture_ids):
    """Make previews, thumbnails and a contact sheet of pictures that were uploaded."""
    pictures = _in_album(picture_ids)
    steps = Steps(len(pictures) * (STEPS_TO_DEVELOP + 1) + 1)

    developed = []
    for picture in pictures:
        steps.begin(f"Reading “{picture.title}”")
        image = darkroom.load(storage.file_path("originals", picture.original))
        developed.append(_develop(image, picture.title, steps))
    sheet = _contact_sheet(developed, steps)

    # All is computed. From here on it is writing: files first, then the rows, and
    # only the rows keep other writers waiting, for some milliseconds.
    prints = {picture.id: result for picture, result in zip(pictures, developed, strict=True)}
    for picture in pictures:
        _save_prints(picture.original, prints[picture.id])
    sheet_name = _save_sheet(sheet)
    pictures = _in_album(picture_ids)  # without those that were removed meanwhile
    for picture in pictures:
        _mark_developed(picture, prints[picture.id])
    return _file_rows(pictures, ContactSheet(file_name=sheet_name, picture_count=len(pictures)))


@task(timeout=600)
def add_samples():
    """Paint the sample landscapes and add them to the album."""
    steps = Steps(len(samples.SCENES) * (STEPS_TO_DEVELOP + 2) + 1)

    painted = []
    for scene in samples.SCENES:
        steps.begin(f"Painting “{scene.title}”")
        image = samples.paint(scene)
        steps.begin(f"Saving “{scene.title}”")
        original = darkroom.as_jpeg(image)
        painted.append((original, image.size, _develop(image, scene.title, steps)))
    sheet = _contact_sheet([result for _, _, result in painted], steps)

    pictures = [_save_new(original, size, result) for original, size, result in painted]
    sheet_name = _save_sheet(sheet)
    return _file_rows(pictures, ContactSheet(file_name=sheet_name, picture_count=len(pictures)))


@task(timeout=600)
def paint_in_oil(picture_id):
    """Paint a picture of the album as if in oil: long enough to change one's mind."""
    picture = DBSession.get(Picture, picture_id)
    if picture is None:
        raise RemovedPicture("the picture was removed from the album")
    title = f"{picture.title}, in oil"[:120]
    original = darkroom.load(storage.file_path("originals", picture.original))
    image = darkroom.fitted(original, CANVAS_SIZE)

    strokes = [(box, width) for width in BRUSH_WIDTHS for box in darkroom.tiles(image, TILE_SIZE)]
    canvas = image.copy()
    # asyncjob_track counts the strokes for the progress bar. When somebody presses
    # "Cancel", it is also what ends the job: after the stroke, not in the middle of it.
    for box, width in asyncjob_track(strokes):
        canvas.paste(darkroom.brush(canvas, box, width), box)

    content = darkroom.as_jpeg(canvas)
    developed = _print(canvas, darkroom.preview(canvas), darkroom.thumbnail(canvas), title)
    return _file_rows([_save_new(content, canvas.size, developed)])


@task
def read_damaged():
    """Fail, as jobs do: read a picture file of which the second half is missing."""
    steps = Steps(3)
    steps.begin("Painting a picture")
    whole = darkroom.as_jpeg(samples.paint(samples.SCENES[0]))
    steps.begin("Losing half of the file")
    half = whole[: len(whole) // 2]
    steps.begin("Reading what is left")
    try:
        Image.open(BytesIO(half)).load()
    except OSError as error:
        raise DamagedPicture(
            f"“Harbour of mist.jpg” breaks off after {len(half):,} of {len(whole):,} bytes; "
            "please upload it again"
        ) from error


@task
def remove_files(original, developed):
    """Remove the files of a picture that is not in the album any more.

    A file is not part of a transaction. So the request removes the row and enqueues this job: if
    it fails, both are still there, and if it is committed, the files will go.
    """
    storage.remove("originals", original)
    for folder in ("previews", "thumbnails"):
        if developed:
            storage.remove(folder, developed)


#: The jobs that the album lists, and what they are called there.
TITLES = {
    develop.name: "Develop pictures",
    add_samples.name: "Add the sample pictures",
    paint_in_oil.name: "Paint a picture in oil",
    read_damaged.name: "Read a damaged picture",
}


def title_of(job):
    """What a job is called on the pages of the album. job: its ``TaskResult``."""
    return TITLES.get(job.name, "Job")


def _in_album(picture_ids):
    return DBSession.query(Picture).filter(Picture.id.in_(picture_ids)).order_by(Picture.id).all()


def _develop(image, title, steps):
    """Do the three steps that every picture of the album goes through."""
    steps.begin(f"Preview of “{title}”")
    preview = darkroom.preview(image)
    steps.begin(f"Thumbnail of “{title}”")
    thumbnail = darkroom.thumbnail(image)
    steps.begin(f"Printing “{title}”")
    return _print(image, preview, thumbnail, title)


def _print(image, preview, thumbnail, title):
    return Developed(
        preview=darkroom.as_jpeg(preview),
        thumbnail=darkroom.as_jpeg(thumbnail),
        colour=darkroom.average_colour(image),
        print=darkroom.Print(title, thumbnail),
    )


def _contact_sheet(developed, steps):
    """Make the bytes of the sheet, the last step of the work."""
    steps.begin("Laying out the contact sheet")
    sheet = darkroom.as_jpeg(darkroom.contact_sheet([one.print for one in developed]))
    steps.end()
    return sheet


def _save_prints(original_name, developed):
    """Write the files that belong to an original."""
    name = _print_name(original_name)
    storage.save("previews", name, developed.preview)
    storage.save("thumbnails", name, developed.thumbnail)


def _save_new(original, size, developed):
    """Write a picture that a job has made; gives a row for it, not yet in the database."""
    name = secrets.token_hex(12) + ".jpg"
    storage.save("originals", name, original)
    _save_prints(name, developed)
    picture = Picture(title=developed.print.title, original=name, width=size[0], height=size[1])
    _mark_developed(picture, developed)
    return picture


def _save_sheet(content):
    # One job, one sheet: a second attempt replaces the file of the first.
    name = f"{asyncjob_running_uid()}.jpg"
    storage.save("sheets", name, content)
    return name


def _mark_developed(picture, developed):
    picture.developed = _print_name(picture.original)
    picture.colour = developed.colour


def _print_name(original_name):
    # The same name whenever it is done again: doing a job twice is harmless.
    return original_name.rpartition(".")[0] + ".jpg"


def _file_rows(pictures, sheet=None):
    """Write all rows at once; gives their ids, for the page that shows the job."""
    DBSession.add_all(pictures if sheet is None else [*pictures, sheet])
    # Without the flush new rows would have no id before the commit.
    DBSession.flush()
    return {
        "pictures": [picture.id for picture in pictures],
        "sheet": None if sheet is None else sheet.id,
    }
