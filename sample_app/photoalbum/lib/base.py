"""What all controllers have in common."""

from tg import TGController, request
from webob.exc import HTTPForbidden, HTTPRequestEntityTooLarge

from photoalbum.lib import uploads

__all__ = ["BaseController"]


class BaseController(TGController):
    """The base class of the controllers in this application."""

    def __call__(self, environ, context):
        """Look at the request before its body is read, then go to the page."""
        refusal = None
        if "tg.original_response" not in environ:  # this is not the page of an error
            refusal = _refuse_strangers() or _refuse_huge_bodies()
        return refusal or super().__call__(environ, context)


def _refuse_strangers():
    # TurboGears has no protection against forms that other sites post here.
    # Every current browser says where a request comes from.
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site") == "cross-site":
        return HTTPForbidden("This form was sent by another site.")
    return None


def _refuse_huge_bodies():
    if (request.content_length or 0) > uploads.MAX_REQUEST_BYTES:
        return HTTPRequestEntityTooLarge(
            "Nothing was added: together the files are larger than "
            f"{uploads.in_megabytes(uploads.MAX_REQUEST_BYTES)}. Please send them in parts."
        )
    return None
