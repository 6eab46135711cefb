"""One request as the parts of the WebApplication see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from webob import Request
from webob.multidict import MultiDict

from ..backends.audit import Act
from ..backends.brief import Brief
from ..backends.overview import Overview
from ..queue import JobQueue
from .origin import comes_from_elsewhere
from .redirect import base_of
from .rights import NOBODY, Rights
from .tokens import Tokens

#: What a form sends that has no files.
FORM = "application/x-www-form-urlencoded"

RightsOf = Callable[[dict[str, Any]], "Rights | None"]


class Visit:
    """A request to a queue's pages."""

    def __init__(self, queue: JobQueue, request: Request, rights_of: RightsOf | None) -> None:
        self.queue = queue
        self.request = request
        self._rights_of = rights_of

    @property
    def base(self) -> str:
        """The URL of the WebApplication, without the host."""
        return base_of(self.request.environ)

    @cached_property
    def rights(self) -> Rights:
        """The rights of the user; asked for only if they are needed."""
        found = None if self._rights_of is None else self._rights_of(self.request.environ)
        return NOBODY if found is None else found

    @property
    def overview(self) -> Overview | None:
        """What the backend tells of all processes; None on ``memory``, which has one only."""
        found: Overview | None = getattr(self.queue.backend, "overview", None)
        return found

    @cached_property
    def now(self) -> datetime:
        """The time of the store when it was first asked for."""
        overview = self.overview
        return datetime.now(timezone.utc) if overview is None else overview.now()

    @property
    def tokens(self) -> Tokens:
        """What signs for this queue."""
        return Tokens(self.queue)

    @cached_property
    def fields(self) -> Any:
        """The fields of the query, or of the form; none of a form that no page of ours sends."""
        request = self.request
        if request.method != "POST":
            return request.GET
        is_ours = request.content_type == FORM and request.charset == "UTF-8"
        return request.POST if is_ours else MultiDict()

    def asked(self, name: str) -> str | None:
        """Return a field of the query or the form; None if it is not there, or not once."""
        found = self.fields.getall(name)
        return str(found[0]) if len(found) == 1 else None

    def briefs(self, uids: Sequence[str]) -> Mapping[str, Brief]:
        """Read the jobs that this user may see; a job that is not shown is as unknown as none."""
        found, access = self.queue.results.briefs(uids), self.queue.options.progress_access
        # Where the uid is enough the rights are not asked for: that may cost queries of the host.
        return {
            uid: brief
            for uid, brief in found.items()
            if access == "uid" or self.rights.may_see(brief, access)
        }

    @cached_property
    def is_from_elsewhere(self) -> bool:
        """Whether a page of another site may have sent this request, which is to change something.

        A browser that does not say where it comes from needs the token that a page of ours was
        rendered with, for this user.
        """
        elsewhere = comes_from_elsewhere(self.request)
        return not self.is_signed if elsewhere is None else elsewhere

    @cached_property
    def is_signed(self) -> bool:
        """Whether a page has offered to this user just what the form asks for."""
        # what it is about: a job, or the queue or the group that a form of the dashboard names
        about = self.asked("uid") or self.asked("of")
        parts = self.request.path_info, about, self.rights.user
        return self.tokens.fits(self.asked("token"), "post", *parts)

    @property
    def act(self) -> Act:
        """Who does what this request asks for."""
        return Act(self.rights.user, "page")

    @property
    def context(self) -> dict[str, Any]:
        """The context of a job that this request enqueues."""
        request = self.request
        line = f"{request.method} {request.path_info}"
        return {"user": self.rights.user, "request": line, "base_url": request.application_url}

    def may_cancel(self, job: Brief) -> bool:
        """Whether the user was offered the button of *job*, has enqueued it, or may act."""
        return self.is_signed or self.rights.owns(job) or self.rights.may_act
