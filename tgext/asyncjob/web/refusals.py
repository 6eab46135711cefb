"""What a page says of an error of this package, in the reader's language."""

from __future__ import annotations

from ..errors import (
    AsyncJobError,
    CallableMissing,
    ModuleMissing,
    OtherPython,
    QueueClosed,
    QueueFull,
    UnknownJob,
)
from ..sentence import Sentence
from .texts import gettext, marked, said

#: By the class of an error; the names are its attributes. In English they are its messages.
_MESSAGES: dict[type[AsyncJobError], str] = {
    UnknownJob: marked("no job %(uid)s: %(reason)s"),
    QueueFull: marked(
        "%(waiting)s jobs wait and asyncjob.max_queued is %(max_queued)s; "
        "try again later, add workers, or raise the limit"
    ),
    QueueClosed: marked(
        "this job queue was closed; enqueue before close(), or make another JobQueue"
    ),
    ModuleMissing: marked(
        "expected the module %(module)s, which a stored call names, but this process has no "
        "%(missing)s; run the job on a worker that has it, or install it here"
    ),
    CallableMissing: marked(
        "expected %(path)s, which a stored call names, but %(reason)s; "
        "put it back under that name, or enqueue the job again"
    ),
    OtherPython: marked(
        "expected the code of %(function)s for %(here)s, which runs here, but %(stored)s stored "
        "it; run the job on a worker with that version, or give a module-level function, which "
        "any version finds by its path"
    ),
}

#: Attributes that a message quotes.
_QUOTED = {"uid", "module", "missing", "path"}


def refusal(error: AsyncJobError) -> str:
    """Return the message of an error; in English if its class has many."""
    message = _MESSAGES.get(type(error))
    if message is None:
        given = error.args[0] if error.args else None
        return said(given) if isinstance(given, Sentence) else str(error)
    values = {
        name: repr(value) if name in _QUOTED else said(value) if isinstance(value, str) else value
        for name, value in vars(error).items()
    }
    return gettext(message, **values)
