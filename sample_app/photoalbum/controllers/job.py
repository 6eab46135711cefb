"""The page of one job: how it goes, and what can be done about it."""

from tg import abort, expose, redirect

from photoalbum.lib import job_view
from photoalbum.lib.base import BaseController
from photoalbum.lib.messages import redirect_with
from photoalbum.model import ContactSheet, DBSession, JobRecord, Picture

__all__ = ["JobsController"]


class JobsController(BaseController):
    """``/job/<uid>``."""

    @expose()
    def _lookup(self, uid=None, *remainder):
        if uid is None:
            abort(404, "There is no such job.")
        return JobController(uid), remainder


class JobController(BaseController):
    """``/job/<uid>``, for one uid."""

    def __init__(self, uid):
        super().__init__()
        self.uid = uid

    def _view(self):
        """Give the view of the job; 404 if neither the album nor asyncjob knows it."""
        record = DBSession.query(JobRecord).filter_by(uid=self.uid).first()
        view = job_view.look_up(self.uid, record.title if record else "Job")
        if record is None and view.state == "unknown":
            abort(404, "There is no such job.")
        return view

    @expose("photoalbum.templates.job")
    def index(self):
        """Show the job: waiting, running, done, failed or cancelled."""
        job = self._view()
        made = job.result.return_value if job.state == "done" else None
        return {"job": job, **_what_was_made(made or {})}

    @expose(allowed_methods=["POST"])
    def cancel(self):
        """Ask the job to stop. A waiting one does at once, a running one at its next step."""
        job, page = self._view(), f"/job/{self.uid}"
        if job.result is None:
            redirect_with(page, "Nothing is known of this job any more.", "error")
        if not job.result.cancel():
            redirect_with(page, "There was nothing left to cancel: the job had ended.", "error")
        if job.state == "running":
            redirect_with(page, "Cancellation requested. A running job stops at its next step.")
        redirect(page)

    @expose(allowed_methods=["POST"])
    def again(self):
        """Run an ended job once more."""
        job, page = self._view(), f"/job/{self.uid}"
        if job.result is None or not job.result.retry():
            redirect_with(page, "Only a known job that has ended can be run again.", "error")
        redirect(page)


def _what_was_made(ids):
    """Look up the pictures and the sheet of which a job gave the ids."""
    sheet_id = ids.get("sheet")
    return {
        "pictures": (
            DBSession.query(Picture)
            .filter(Picture.id.in_(ids.get("pictures", [])))
            .order_by(Picture.id)
            .all()
        ),
        "sheet": DBSession.get(ContactSheet, sheet_id) if sheet_id else None,
    }
