"""The pages of the album."""

from tg import abort, expose, redirect, request, url, use_wsgi_app
from webob.static import FileApp

from photoalbum import jobs
from photoalbum.controllers.error import ErrorController
from photoalbum.controllers.job import JobsController
from photoalbum.lib import job_view, storage, uploads
from photoalbum.lib.base import BaseController
from photoalbum.lib.helpers import plural
from photoalbum.lib.messages import redirect_with
from photoalbum.model import ContactSheet, DBSession, JobRecord, Picture
from tgext.asyncjob import UnknownJob, asyncjob_result

__all__ = ["RootController"]

PICTURES_SHOWN = 60
JOBS_SHOWN = 6
#: in one job, not more than in one upload: they are in memory until they are written
PICTURES_A_JOB = uploads.MAX_FILES


class RootController(BaseController):
    """``/`` and everything below it."""

    error = ErrorController()
    job = JobsController()

    # -- pages ------------------------------------------------------------------

    @expose("photoalbum.templates.index")
    def index(self):
        """Show the album."""
        newest_first = DBSession.query(Picture).order_by(Picture.id.desc())
        records = DBSession.query(JobRecord).order_by(JobRecord.id.desc()).limit(JOBS_SHOWN)
        return {
            "pictures": newest_first.limit(PICTURES_SHOWN).all(),
            "picture_count": newest_first.count(),
            "undeveloped_count": _undeveloped().count(),
            "sheet": DBSession.query(ContactSheet).order_by(ContactSheet.id.desc()).first(),
            "recent_jobs": [job_view.look_up(record.uid, record.title) for record in records],
            "uploads": uploads,
        }

    @expose("photoalbum.templates.picture")
    def picture(self, picture_id):
        """Show one picture."""
        return {"picture": _get(Picture, picture_id)}

    # -- the same for programs --------------------------------------------------

    @expose("json")
    def status(self, uid):
        """Say how a job goes; the page of a job asks this again and again."""
        try:
            return asyncjob_result(uid)
        except UnknownJob:
            abort(404, "There is no such job.", passthrough="json")

    @expose("json")
    def pictures(self):
        """List the album."""
        return {
            "pictures": [
                {
                    "id": picture.id,
                    "title": picture.title,
                    "thumbnail": picture.developed and url(f"/thumbnail/{picture.id}"),
                }
                for picture in DBSession.query(Picture).order_by(Picture.id)
            ]
        }

    # -- starting jobs ----------------------------------------------------------

    @expose(allowed_methods=["POST"])
    def upload(self, **_fields):
        """Take pictures in, and have them developed in the background."""
        accepted, refused = _sort_uploads(request.POST.getall("pictures"))
        message = uploads.summary(refused) if refused else None
        if not accepted:
            redirect_with("/", message or "No files were chosen.", "error")

        pictures = [_add_picture(one) for one in accepted]
        # The job needs the ids, and a row has none before it is flushed.
        DBSession.flush()
        title = f"Develop {plural(len(pictures), 'picture')}"
        uid = _enqueue(title, jobs.develop, [picture.id for picture in pictures])
        if message:
            redirect_with(f"/job/{uid}", message, "error")
        redirect(f"/job/{uid}")

    @expose(allowed_methods=["POST"])
    def develop_rest(self):
        """Develop the pictures whose job failed, was cancelled or got lost."""
        pictures = _undeveloped().limit(PICTURES_A_JOB).all()
        if not pictures:
            redirect_with("/", "All pictures have their thumbnails.")
        title = f"Develop {plural(len(pictures), 'picture')}"
        _start(title, jobs.develop, [picture.id for picture in pictures])

    @expose(allowed_methods=["POST"])
    def samples(self):
        """Have the sample pictures painted."""
        _start("Add the sample pictures", jobs.add_samples)

    @expose(allowed_methods=["POST"])
    def oil(self):
        """Start a long job, one that can be cancelled."""
        picture = DBSession.query(Picture).order_by(Picture.id.desc()).first()
        if picture is None:
            redirect_with("/", "There is no picture yet to paint: add some first.", "error")
        _start(f"Paint “{picture.title}” in oil"[:120], jobs.paint_in_oil, picture.id)

    @expose(allowed_methods=["POST"])
    def fail(self):
        """Start a job that will fail."""
        _start("Read a damaged picture", jobs.read_damaged)

    # -- picture files ----------------------------------------------------------

    @expose()
    def original(self, picture_id):
        """Send the file that was uploaded."""
        return _send("originals", _get(Picture, picture_id).original)

    @expose()
    def preview(self, picture_id):
        """Send a picture as large as a screen."""
        return _send("previews", _get(Picture, picture_id).developed)

    @expose()
    def thumbnail(self, picture_id):
        """Send a picture as small as a playing card."""
        return _send("thumbnails", _get(Picture, picture_id).developed)

    @expose()
    def sheet(self, sheet_id):
        """Send a contact sheet."""
        return _send("sheets", _get(ContactSheet, sheet_id).file_name)


def _start(title, task, *args):
    """Enqueue *task* and go to the page of the job."""
    redirect(f"/job/{_enqueue(title, task, *args)}")


def _enqueue(title, task, *args):
    """Enqueue *task*, and give the uid of the job.

    The job belongs to this request's transaction, as the rows do: when the request
    commits, all of them exist; when it fails, none. The job cannot start earlier, so
    it always finds the rows whose ids it gets.
    """
    result = task.enqueue(*args)
    DBSession.add(JobRecord(uid=result.id, title=title))
    return result.id


def _sort_uploads(fields):
    """Give the pictures among the uploaded files, and pairs (name, reason) for the others."""
    # A browser sends one field without a file name when nothing was chosen.
    files = [field for field in fields if getattr(field, "filename", None)]
    accepted, refused = [], []
    for number, field in enumerate(files):
        try:
            if number >= uploads.MAX_FILES:
                raise uploads.RefusedUpload(f"is one of more than {uploads.MAX_FILES} files")
            accepted.append(uploads.check(field.filename, field.file))
        except uploads.RefusedUpload as reason:
            refused.append((field.filename, str(reason)))
    return accepted, refused


def _add_picture(accepted):
    # A file whose row is never committed is left over. That is harmless; a row
    # whose file is missing would not be. So: the file first.
    storage.save("originals", accepted.file_name, accepted.content)
    picture = Picture(
        title=accepted.title,
        original=accepted.file_name,
        width=accepted.width,
        height=accepted.height,
    )
    DBSession.add(picture)
    return picture


def _undeveloped():
    return DBSession.query(Picture).filter(Picture.developed.is_(None))


def _get(model_class, row_id):
    """Give the row with the id that stands in the address; 404 if there is none."""
    row = DBSession.get(model_class, int(row_id)) if row_id.isdecimal() else None
    if row is None:
        abort(404, "This picture is not in the album.")
    return row


def _send(folder, name):
    path = name and storage.file_path(folder, name)
    if not path or not path.is_file():
        abort(404, "This picture is not ready yet.")
    return use_wsgi_app(FileApp(str(path)))
