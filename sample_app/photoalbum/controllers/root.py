"""The pages of the album."""

from tg import abort, app_globals, expose, redirect, request, url, use_wsgi_app
from webob.static import FileApp

from photoalbum import jobs
from photoalbum.controllers.error import ErrorController
from photoalbum.lib import darkroom, storage, uploads
from photoalbum.lib.base import BaseController
from photoalbum.lib.messages import redirect_with
from photoalbum.model import ContactSheet, DBSession, Picture
from tgext.asyncjob import UnknownJob, asyncjob_result, asyncjob_track, background

__all__ = ["RootController"]

PICTURES_SHOWN = 60
JOBS_SHOWN = 6
#: in one job, not more than in one upload: they are in memory until they are written
PICTURES_A_JOB = uploads.MAX_FILES


class RootController(BaseController):
    """``/`` and everything below it."""

    error = ErrorController()

    # -- pages ------------------------------------------------------------------

    @expose("photoalbum.templates.index")
    def index(self):
        """Show the album."""
        newest_first = DBSession.query(Picture).order_by(Picture.id.desc())
        listed = app_globals.asyncjob_queue.jobs(name=list(jobs.TITLES), limit=JOBS_SHOWN)
        return {
            "pictures": newest_first.limit(PICTURES_SHOWN).all(),
            "picture_count": newest_first.count(),
            "undeveloped_count": _undeveloped().count(),
            "sheet": DBSession.query(ContactSheet).order_by(ContactSheet.id.desc()).first(),
            "recent_jobs": listed.results,
            "title_of": jobs.title_of,
            "uploads": uploads,
        }

    @expose("photoalbum.templates.picture")
    def picture(self, picture_id):
        """Show one picture."""
        return {"picture": _get(Picture, picture_id)}

    @expose("photoalbum.templates.job")
    def job(self, uid):
        """Show one job: its bar, and what it has made."""
        job = _job(uid)
        made = job.return_value if job.status == "SUCCESSFUL" else {}
        pictures = DBSession.query(Picture).filter(Picture.id.in_(made.get("pictures", [])))
        sheet_id = made.get("sheet")
        return {
            "job": job,
            "title": jobs.title_of(job),
            "pictures": pictures.order_by(Picture.id).all(),
            "sheet": sheet_id and DBSession.get(ContactSheet, sheet_id),
        }

    @expose("photoalbum.templates.colours")
    @background(after=0.8)
    def colours(self):
        """Show the main colours of each picture.

        Every picture is read, which takes a while: so this runs as a job, and the page has a bar
        until it is done. It returns texts only, since the job's result is stored.
        """
        pictures = DBSession.query(Picture).filter(Picture.developed.is_not(None)).all()
        found = []
        for picture in asyncjob_track(pictures):
            image = darkroom.load(storage.file_path("previews", picture.developed))
            found.append({"title": picture.title, "colours": darkroom.main_colours(image)})
        return {"pictures": found}

    # -- the login of whoever looks after the jobs ------------------------------

    @expose("photoalbum.templates.login")
    def login(self, failed=None):
        """Ask for the password; TurboGears itself takes the answer, at /login_handler."""
        return {"has_failed": failed is not None}

    @expose()
    def logged_in(self):
        """Go on to the dashboard, or ask once more."""
        if request.identity is None:
            redirect("/login", params={"failed": "yes"})
        redirect("/asyncjob/")

    # -- the same for programs --------------------------------------------------

    @expose("json")
    def status(self, uid):
        """Say how a job goes."""
        return _job(uid, passthrough="json")

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
        # The job belongs to this request's transaction, as the rows do: when the request
        # commits, all of them exist; when it fails, none. So the job finds its rows.
        job = jobs.develop.enqueue([picture.id for picture in pictures])
        if message:
            redirect_with(f"/job/{job.id}", message, "error")
        redirect(f"/job/{job.id}")

    @expose(allowed_methods=["POST"])
    def develop_rest(self):
        """Develop the pictures whose job failed, was cancelled or got lost."""
        pictures = _undeveloped().limit(PICTURES_A_JOB).all()
        if not pictures:
            redirect_with("/", "All pictures have their thumbnails.")
        _start(jobs.develop, [picture.id for picture in pictures])

    @expose(allowed_methods=["POST"])
    def samples(self):
        """Have the sample pictures painted."""
        _start(jobs.add_samples)

    @expose(allowed_methods=["POST"])
    def oil(self):
        """Start a long job, one that can be cancelled."""
        picture = DBSession.query(Picture).order_by(Picture.id.desc()).first()
        if picture is None:
            redirect_with("/", "There is no picture yet to paint: add some first.", "error")
        _start(jobs.paint_in_oil, picture.id)

    @expose(allowed_methods=["POST"])
    def fail(self):
        """Start a job that will fail."""
        _start(jobs.read_damaged)

    @expose(allowed_methods=["POST"])
    def again(self, uid):
        """Run an ended job once more."""
        if not _job(uid).retry():
            redirect_with(f"/job/{uid}", "Only a job that has ended can be run again.", "error")
        redirect(f"/job/{uid}")

    @expose(allowed_methods=["POST"])
    def remove(self, picture_id):
        """Remove a picture from the album: its row now, its files by a job."""
        picture = _get(Picture, picture_id)
        jobs.remove_files.enqueue(picture.original, picture.developed)
        DBSession.delete(picture)
        redirect_with("/", f"“{picture.title}” was removed.")

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


def _start(task, *args):
    """Enqueue *task* and go to the page of the job."""
    redirect(f"/job/{task.enqueue(*args).id}")


def _job(uid, passthrough=False):
    """Give the ``TaskResult`` of *uid*; 404 if there is none."""
    try:
        return asyncjob_result(uid)
    except UnknownJob:
        abort(404, "There is no such job.", passthrough=passthrough)


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
