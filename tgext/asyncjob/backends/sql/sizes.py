"""The limits on the size of a job, a result and log lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import NotSerializable

#: The share of the longest statement for the texts of a new job, or for a result, and the share for
#: log lines. The rest is for the statement itself.
_SHARE, _LOGS_SHARE = 0.85, 0.1


def sent_bytes(texts: Iterable[str]) -> int:
    """Return the number of bytes that texts take in a statement, escaped."""
    return sum(
        len(text.encode("utf-8", "surrogatepass")) + sum(map(text.count, "\"'\\")) for text in texts
    )


def why_too_large(texts: Iterable[Any], most_bytes: int | None) -> str | None:
    """Return the reason why the texts among *texts* do not fit into a statement; None if they fit.

    most_bytes: the most bytes of one statement; None: not known yet.
    """
    if most_bytes is None:
        return None
    texts, most = [text for text in texts if type(text) is str], int(most_bytes * _SHARE)
    if 5 * sum(map(len, texts)) <= most:
        return None  # whatever characters they have
    found = sent_bytes(texts)
    if found <= most:
        return None
    return (
        f"expected at most {most} bytes, got {found}: the database takes {most_bytes} in one "
        "statement (MariaDB: max_allowed_packet)"
    )


def check_size(name: str, row: Mapping[str, Any], most_bytes: int | None) -> None:
    """Raise NotSerializable for a job that does not fit into a statement."""
    why = why_too_large(row.values(), most_bytes)
    if why is not None:
        raise NotSerializable(
            f"a call of {name} is too large: {why}; pass a path, an id or a URL of such data"
        )


def log_text(lines: tuple[str, ...], most_bytes: int | None) -> str | None:
    """Return the last log lines of an attempt, as many as fit, as JSON; None if there are none."""
    if not lines:
        return None
    text = json.dumps(lines)
    most = None if most_bytes is None else int(most_bytes * _LOGS_SHARE)
    while most is not None and lines and sent_bytes([text]) > most:
        lines = lines[(len(lines) + 1) // 2 :]
        text = json.dumps([f"... the lines before were left out: they fill {most} bytes", *lines])
    return text
