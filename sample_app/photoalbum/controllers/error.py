"""Show an error as a page of the album."""

from tg import expose, request

from photoalbum.lib.base import BaseController

__all__ = ["ErrorController"]


class ErrorController(BaseController):
    """Make the pages for answers such as 404; TurboGears comes here by itself."""

    @expose("photoalbum.templates.error")
    @expose("json")
    def document(self, *args, **kwargs):
        """Show what went wrong: as a page, or as JSON to a client that asks for JSON."""
        answer = request.environ.get("tg.original_response")
        code = answer.status_int if answer is not None else 404
        # A message is there when a controller said abort(404, "There is no ...").
        detail = getattr(answer, "detail", None)
        return {"code": code, "message": detail or "This page could not be made."}
