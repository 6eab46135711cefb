"""The progress element: one call in a template, ``${asyncjob_progress(uid)}``.

It is rendered with the state that the job has then, and two forms that work without JavaScript.
``static/progress.js`` hides the form that reloads, and asks for all elements of a page at once.
"""

from __future__ import annotations

from markupsafe import Markup

from ..backends.brief import Brief
from ..current import current_queue
from ..errors import BadCall, ConfigError
from ..queue import JobQueue
from .element_texts import texts
from .job_state import TEXT_LENGTH, JobState, shown, state_of, time_left
from .origin import is_local
from .statics import url_of
from .texts import gettext, marked, translated_by
from .tokens import Tokens
from .visitor import Visitor, visitor_var

#: The name of a bar without a label, for readers who do not see it.
UNNAMED = marked("Progress")


def asyncjob_progress(
    uid: str, label: str | None = None, cancel: bool = False, then: str | None = None
) -> Markup:
    """Return the HTML of a progress bar that follows a job, for any template engine.

    uid: that of the job. label: a text above the bar; plain text, not HTML. cancel: whether the
    reader of this page may cancel the job, by a button. then: a URL of this site, such as
    "/album/3", that the page goes to once the job is SUCCESSFUL; None: it stays.
    Raises ConfigError if there is no current queue, if ``asyncjob.web_path`` is none, and, with
    cancel or then, if ``asyncjob.secret`` is needed; BadCall for a *then* that is no path.
    """
    queue, visitor = current_queue(), visitor_var.get()()
    base = queue.options.web_path if visitor.base is None else visitor.base
    if base is None:
        raise ConfigError(
            "asyncjob_progress(): expected asyncjob.web_path, the path where the element asks for "
            "news, got none; set it, or leave it out for /asyncjob"
        )
    uid = str(uid)
    with translated_by(visitor.translations):
        return _of_visitor(queue, uid, visitor._replace(base=base), label, cancel, then)


def _of_visitor(
    queue: JobQueue, uid: str, visitor: Visitor, label: str | None, cancel: bool, then: str | None
) -> Markup:
    job = queue.results.briefs([uid]).get(uid)
    if job is not None and not visitor.rights.may_see(job, queue.options.progress_access):
        job = None
    return made(queue, uid, visitor, job, label, cancel, then)


def made(  # noqa: PLR0913 - what the call above takes, and what it has found
    queue: JobQueue,
    uid: str,
    visitor: Visitor,
    job: Brief | None,
    label: str | None = None,
    cancel: bool = False,
    then: str | None = None,
) -> Markup:
    """Return the element of a *job* that has been read; None: it is unknown."""
    state, tokens, base = state_of(job), Tokens(queue), visitor.base or ""
    if then is not None and not (isinstance(then, str) and is_local(then)):
        raise BadCall(
            f"asyncjob_progress: expected then to be a path of this site, such as '/album/3', got "
            f"{then!r}"
        )
    fields = {"uid": uid}
    if then is not None:
        fields |= {"then": then, "token": tokens.sign("then", uid, then)}
    parts = [Markup('<link rel="stylesheet" href="{}"/>').format(url_of(base, "progress.css"))]
    name = gettext(UNNAMED) if label is None else shown(str(label), TEXT_LENGTH)
    if label is not None:
        parts.append(Markup('<div class="asyncjob-label" dir="auto">{}</div>').format(name))
    parts += [_bar(state, name), _said(state)]
    if then is not None and state.name == "done":
        parts.append(
            Markup('<a class="asyncjob-then" href="{}">{}</a>').format(then, gettext("Continue"))
        )
    if not state.is_final:
        parts.append(_form("get", f"{base}/reload", "reload", gettext("Reload"), fields))
    if cancel and not state.is_final and state.name != "cancelling":
        token = tokens.sign("post", "/cancel", uid, visitor.rights.user)
        parts.append(_form("post", f"{base}/cancel", "cancel", gettext("Cancel"),
                           {"uid": uid, "token": token}))  # fmt: skip
    # A module, as a page runs one only once, however many elements name it.
    parts.append(
        Markup('<script type="module" src="{}"></script>').format(url_of(base, "progress.js"))
    )
    translated = texts()
    said = Markup("") if translated is None else Markup(' data-texts="{}"').format(translated)
    return Markup(
        '<asyncjob-progress class="asyncjob-progress" data-uid="{}" data-url="{}" data-state="{}"'
        '{} tabindex="-1">{}</asyncjob-progress>'
    ).format(_uid_shown(uid), base, state.name, said, Markup("").join(parts))


def _uid_shown(uid: str) -> str:
    """Return a uid as an attribute holds it: without NUL, which no HTML has, and no uid either."""
    return shown(uid, TEXT_LENGTH)


def _bar(state: JobState, name: str) -> Markup:
    found = Markup("")
    if state.name == "done":
        found = Markup(' value="1" max="1"')
    elif state.value is not None and state.total is not None:
        value = min(state.value, state.total)
        found = Markup(' value="{}" max="{}"').format(value, state.total)
    elif state.is_final or state.name in ("waiting", "retrying"):
        found = Markup(' value="0" max="1"')  # an empty bar; one without a value would move
    return Markup('<progress{} aria-label="{}" aria-valuetext="{}"></progress>').format(
        found, name, sentence_with_details(state)
    )


def _said(state: JobState) -> Markup:
    return Markup(
        '<div class="asyncjob-said" dir="auto"><span class="asyncjob-shape" aria-hidden="true">'
        '</span><span class="asyncjob-state">{}</span> <span class="asyncjob-details">{}</span>'
        '</div><div class="asyncjob-spoken" role="status"></div>'
    ).format(state.sentence, _details(state))


def sentence_with_details(state: JobState) -> str:
    """Return what a reader hears who does not see the bar."""
    details = _details(state)
    return f"{state.sentence}, {details}" if details else state.sentence


def _details(state: JobState) -> str:
    if state.name not in ("running", "cancelling"):
        return ""
    percent = None if state.percent is None else f"{state.percent} %"
    return ", ".join(part for part in (percent, state.text, time_left(state.eta_seconds)) if part)


def _form(method: str, action: str, kind: str, button: str, fields: dict[str, str]) -> Markup:
    hidden = Markup("").join(
        Markup('<input type="hidden" name="{}" value="{}"/>').format(name, value)
        for name, value in fields.items()
    )
    return Markup(
        '<form class="asyncjob-{}" method="{}" action="{}">{}<button type="submit">{}</button>'
        "</form>"
    ).format(kind, method, action, hidden, button)
