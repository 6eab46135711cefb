"""``/limits``: limits and rates by key, the limits of queues, and the owners who take turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webob import Response

from .dashboard import page
from .texts import gettext

if TYPE_CHECKING:
    from .visit import Visit


def show(visit: Visit) -> Response:
    """Answer with the keys of which jobs wait or run, the full ones first, and with the owners who
    take turns."""
    backend = visit.queue.backend
    keys, owners = backend.key_states(), backend.owner_states()
    limits = backend.queue_limits()
    running = backend.running_in_each(limits) if limits else {}
    queues = [(name, most, running[name]) for name, most in limits.items()]
    return page(
        visit,
        "limits.xhtml",
        "/limits",
        gettext("Limits"),
        keys=sorted(keys.states, key=lambda each: (not each.use.is_full, each.use.key)),
        more_keys=keys.has_more,
        queues=queues,
        owners=owners.states,
        more_owners=owners.has_more,
        is_shared=visit.overview is not None,
    )
