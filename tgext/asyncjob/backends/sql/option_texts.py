"""The options of a job that have no column, as they stand in a row."""

from __future__ import annotations

import json
from typing import Any

from ...task_options import DEFAULT_OPTIONS, TaskOptions

#: Stands for an option that a row cannot hold, a callable ``backoff`` or an executor object: for
#: that of the task in the process that runs the job.
TASKS_OWN = "the task's"

#: The other values of these options, which a row can hold.
HOLDABLE = {"backoff": "or give seconds", "executor": "or give the name of one"}

_PLAIN_OPTIONS = ("takes_context", "max_attempts", "timeout", "backoff", "executor")


def options_text(options: TaskOptions) -> str | None:
    """Return those that differ from the default, as JSON; None if there are none."""
    if options is DEFAULT_OPTIONS:
        return None
    found = {
        name: getattr(options, name)
        for name in _PLAIN_OPTIONS
        if getattr(options, name) != getattr(DEFAULT_OPTIONS, name)
    }
    found.update(dict.fromkeys(not_in_rows(options), TASKS_OWN))
    return json.dumps(found) if found else None


def not_in_rows(options: TaskOptions) -> list[str]:
    """Return the names of those that cannot be stored as text."""
    found = ["backoff"] if callable(options.backoff) else []
    found += [] if isinstance(options.executor, str) else ["executor"]
    for name in ("retry_on", "give_up_on"):
        if getattr(options, name) is not getattr(DEFAULT_OPTIONS, name):
            found.append(name)
    return found


def tasks_own(found: dict[str, Any]) -> list[str]:
    """Return the names of those in the text of a row that are the task's own."""
    return [name for name, value in found.items() if value == TASKS_OWN]
