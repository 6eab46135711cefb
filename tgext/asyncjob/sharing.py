"""``Share``: whose job is whose, where the owners of the jobs of a queue take turns.

Jobs of one queue and priority take turns with each other. A turn is a key of these two, an *owner*
one of the turn and of what ``share_key`` gives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .call import Call
from .errors import ConfigError
from .keys import KeySource, check_key, key_of, shortened

#: Begin the keys of turns and of owners; no other key begins so.
TURN, OWNER = "/:", "//"

#: The owner is the user whose request enqueues the job.
OF_USER = True

ShareSource = KeySource | bool


class Share(NamedTuple):
    """The place of one job."""

    turn: str
    owner: str


def is_turn(name: str) -> bool:
    """Whether a key is of a turn."""
    return name.startswith(TURN)


def is_owner(name: str) -> bool:
    """Whether a key is of an owner."""
    return name.startswith(OWNER)


def check_share_key(source: object) -> None:
    """Check this option of a task. Raises ConfigError."""
    if source is OF_USER:
        return
    if source is False:
        raise ConfigError(
            "share_key: expected True for the enqueuing user, a text, a callable of the job's "
            "arguments that returns one, or shared(...), got False; for no turns leave it out, "
            "or say None"
        )
    check_key("share_key", source)


def share_of(
    source: ShareSource, call: Call, queue_name: str, priority: int, user: str | None
) -> Share | None:
    """Return the place of a job; None: it takes no turns.

    source: the option ``share_key``. user: who enqueues it; None: nobody is known, and all such
    jobs have one owner. Raises BadCall if no key can be made of the arguments.
    """
    if source is None:
        return None
    if isinstance(source, bool):
        owner = "@" + (user or "")
    else:
        owner = key_of("share_key", source, call.name, call.args, call.kwargs or {})
    place = f"{-priority}:{queue_name}"
    return Share(TURN + place, shortened(OWNER, f"{place}/", owner))


def queue_of(turn: str) -> tuple[str, int]:
    """Return the queue and the priority of a turn."""
    rank, _, queue_name = turn.removeprefix(TURN).partition(":")
    return queue_name, -int(rank)


def owner_shown(share: Share) -> str:
    """Return what names an owner in its queue: "@ann" is a user, "@" nobody."""
    place = share.turn.removeprefix(TURN)
    return share.owner.removeprefix(f"{OWNER}:{place}/:")


def user_of(context: Any) -> str | None:
    """Return the user that a job's context names; None if it names none."""
    found = context.get("user") if context else None
    return str(found) if type(found) in (str, int) else None
