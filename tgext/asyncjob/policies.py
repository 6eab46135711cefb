"""``Policy``: when jobs of a task may start beside each other; ``Keys``: what one job has of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .amount import is_int
from .call import Call
from .errors import ConfigError
from .keys import KeySource, SharedKey, check_key, key_of, shortened
from .sharing import Share, ShareSource, check_share_key, share_of
from .uniqueness import PREFIX, Unique, UniqueKey, arguments_text, check_unique, scope_of

#: More than any fleet runs at once.
MOST_AT_ONCE = 1_000_000


#: The most starts and the longest window of a rate, in seconds: each start is a row for so long.
MOST_STARTS = 100_000
LONGEST_WINDOW = 86_400.0

_RATE = re.compile(r"(\d{1,6})/(\d{1,9}(?:\.\d{1,3})?)?(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Limit(NamedTuple):
    """A job starts only while fewer than *most* jobs of its key hold a slot."""

    key: str
    most: int


class Rate(NamedTuple):
    """A job starts only while fewer than *most* jobs of its key have started in the last seconds,
    or are about to."""

    key: str
    most: int
    seconds: float


class Keys(NamedTuple):
    """What a job must be admitted by before a worker may claim it. Each key has another name, also
    where a limit and a rate were declared with the same."""

    limit: Limit | None = None
    rate: Rate | None = None
    unique: UniqueKey | None = None
    share: Share | None = None

    @property
    def group(self) -> str | None:
        """The key of the jobs that wait for the same as this one, in their order; None: it waits
        for neither a slot nor a turn."""
        names = self.names if self.share is None else [self.share.owner, *self.names]
        return shortened("+", *names) if len(names) > 1 else names[0] if names else None

    @property
    def names(self) -> list[str]:
        """The keys with slots, in the order in which they are locked."""
        return sorted({each.key for each in (self.limit, self.rate) if each is not None})

    def free_slots(self, used: Mapping[str, int]) -> int:
        """Return how many jobs like this one could be admitted. used: by key, how many count."""
        return min(
            (each.most - used[each.key] for each in (self.limit, self.rate) if each),
            default=MOST_AT_ONCE,
        )

    def with_arguments_of(self, newer: Keys) -> Keys:
        """Return what a coalesced job of these keys waits for with the arguments of a newer one:
        the same if that is by the same keys. It stays in its queue, at its priority."""
        share, its = self.share, newer.share
        is_there = share is not None and its is not None and share.turn == its.turn
        keys = self._replace(limit=newer.limit, rate=newer.rate, share=its if is_there else share)
        return self if keys.group == self.group else keys

    @property
    def text(self) -> str:
        """As it stands in a row."""
        found = {name: each for name, each in self._asdict().items() if each is not None}
        return json.dumps(found, separators=(",", ":"))

    @classmethod
    def of(cls, text: str | None) -> Keys | None:
        """Read the text of a row; None for no text, or one of another version."""
        if not text:
            return None
        try:
            found = json.loads(text)
            limit, rate, unique, share = (found.get(name) for name in cls._fields)
            return cls(
                limit and Limit(*limit),
                rate and Rate(*rate),
                unique and UniqueKey(*unique),
                share and Share(*share),
            )
        except (ValueError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class Policy:
    """Checked here, so that ``@task`` fails at import. Raises ConfigError for a policy that can
    never be satisfied."""

    #: how many jobs of one key may be at work at once, across all workers; None: any number
    limit: int | None = None
    limit_key: KeySource = None
    #: how many attempts of one key may start in any window, as "10/60s"; None: any number
    rate: str | None = None
    rate_key: KeySource = None
    #: "waiting", "unfinished" or a period: while a job of the key waits, until it has ended, or for
    #: so long from its enqueue, no second one is enqueued; None: any number
    unique: Unique = None
    #: None: the arguments
    unique_key: KeySource = None
    #: whether a job takes the arguments of a later one of its key as long as it waits
    coalesce: bool = False
    #: whose a job is, where the owners of the jobs of a queue and priority take turns; True: the
    #: enqueuing user; None: it takes no turns
    share_key: ShareSource = None

    def __post_init__(self) -> None:
        if self.limit is not None and not (is_int(self.limit) and 0 < self.limit <= MOST_AT_ONCE):
            raise ConfigError(
                f"limit: expected a whole number from 1 to {MOST_AT_ONCE:,}, or None for no limit, "
                f"got {self.limit!r}; to keep jobs from starting use JobQueue.pause()"
            )
        if self.rate is not None:
            parsed_rate(self.rate)
        for name, policy in (("limit", self.limit), ("rate", self.rate)):
            source = getattr(self, f"{name}_key")
            check_key(f"{name}_key", source)
            if source is not None and policy is None:
                raise ConfigError(
                    f"{name}_key: expected a {name} beside it, got none and {source!r}; add one, "
                    'as limit=1 or rate="10/60s"'
                )
        check_share_key(self.share_key)
        check_key("unique_key", self.unique_key)
        check_unique(self.unique, self.unique_key, self.coalesce)
        if self.coalesce and isinstance(self.unique_key, SharedKey):
            raise ConfigError(
                "coalesce: expected a unique_key of this task alone, got shared(...); a job of "
                "one task cannot take the arguments of another one"
            )

    def using(self, **changed: Any) -> Policy:
        """Return a copy with other options; the key of what is switched off goes with it. Raises
        ConfigError."""
        found: dict[str, Any] = {**vars(self), **changed}
        is_off = {"limit": found["limit"] is None, "rate": found["rate"] is None}
        is_off["unique"] = found["unique"] is None and found["coalesce"] is False
        gone = {f"{name}_key": None for name, off in is_off.items() if off}
        return replace(self, **{**gone, **changed})

    def keys(
        self, call: Call, implied: int, queue_name: str, priority: int, user: str | None
    ) -> Keys | None:
        """Return what a job with this call must be admitted by; None: nothing.

        implied: how many positional arguments the worker passes before those of the call. user: who
        enqueues it; None: not known.
        Raises BadCall if a key cannot be made of the arguments.
        """
        limit, rate = self._key("limit", call), self._key("rate", call)
        keys = Keys(
            None if limit is None else Limit(limit, int(self.limit or 0)),
            None if rate is None else Rate(shortened("rate", rate), *parsed_rate(self.rate)),
            self._unique(call, implied),
            share_of(self.share_key, call, queue_name, priority, user),
        )
        return keys if any(keys) else None

    def _key(self, name: str, call: Call) -> str | None:
        """Return the key of a limit or a rate; None if the task has none."""
        if getattr(self, name) is None:
            return None
        return self._key_of(f"{name}_key", call)

    def _key_of(self, name: str, call: Call) -> str:
        return key_of(name, getattr(self, name), call.name, call.args, call.kwargs or {})

    def _unique(self, call: Call, implied: int) -> UniqueKey | None:
        if self.unique is None and not self.coalesce:
            return None
        if self.unique_key is None:
            key = shortened(call.name, arguments_text(call, implied))
        else:
            key = self._key_of("unique_key", call)
        key = shortened(PREFIX[:-1], key)
        return UniqueKey(key, *scope_of(self.unique, self.coalesce))


def parsed_rate(text: object) -> tuple[int, float]:
    """Return the starts and the seconds of a rate. Raises ConfigError."""
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if found is not None:
        most, seconds = int(found[1]), float(found[2] or 1) * _SECONDS[found[3]]
        if 0 < most <= MOST_STARTS and 0.001 <= seconds <= LONGEST_WINDOW:
            return most, seconds
    raise ConfigError(
        f"rate: expected 1 to {MOST_STARTS:,} starts in a window of 1ms to 1d, as "
        f'"10/60s", "100/h" or "5/1m", got {text!r}'
    )


NO_POLICY = Policy()
