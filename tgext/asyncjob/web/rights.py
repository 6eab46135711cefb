"""Who a request comes from, and what that user may do."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from ..backends.brief import Brief

#: True, False, or a callable that returns it.
Answer = bool | Callable[[], bool]


class Rights:
    """The user of a request.

    user: None: nobody is logged in. may_view: whether the user may see all jobs; may_act: whether
    the user may change all jobs, which includes to see them. Either may be a callable, which is
    called once, and only if the answer is needed.
    """

    def __init__(
        self, user: str | None = None, may_view: Answer = False, may_act: Answer = False
    ) -> None:
        self.user = user
        self._may_view = may_view
        self._may_act = may_act

    @cached_property
    def may_view(self) -> bool:
        """Whether the user may see all jobs."""
        return _answer(self._may_view) or self.may_act

    @cached_property
    def may_act(self) -> bool:
        """Whether the user may change all jobs."""
        return _answer(self._may_act)

    def owns(self, job: Brief) -> bool:
        """Whether the user has enqueued *job*; nobody owns what was enqueued by nobody."""
        return self.user is not None and self.user == job.user

    def may_see(self, job: Brief, access: str) -> bool:
        """Whether the user may see how *job* stands; access: ``asyncjob.progress_access``."""
        return access == "uid" or self.owns(job) or self.may_view


def _answer(given: Answer) -> bool:
    return bool(given() if callable(given) else given)


#: Those of a request that no ``rights`` callable knows.
NOBODY = Rights()
