"""Stores of tasks: a mapping over the real Redis, as an application would write one, a shelf."""

from __future__ import annotations

import json
import os
import shelve
import sys
import uuid
from collections.abc import Iterator, MutableMapping
from dbm import dumb
from pathlib import Path
from typing import Any

import pytest

from needs import need


class RedisStore(MutableMapping[str, Any]):
    """Keys of one prefix, with values in JSON."""

    def __init__(self, prefix: str) -> None:
        import redis

        self.prefix = prefix
        self.client = redis.Redis(host="127.0.0.1", port=6379, socket_timeout=5)

    def __getitem__(self, key: str) -> Any:
        text = self.client.get(self.prefix + key)
        if text is None:
            raise KeyError(key)
        return json.loads(text)

    def __setitem__(self, key: str, value: Any) -> None:
        self.client.set(self.prefix + key, json.dumps(value), ex=600)

    def __delitem__(self, key: str) -> None:
        if not self.client.delete(self.prefix + key):
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for key in self.client.scan_iter(f"{self.prefix}*"):
            yield key.decode().removeprefix(self.prefix)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def claim(self, key: str, _entry: object) -> bool:
        """Say to one of all who ask that the entry is theirs: the server decides."""
        return bool(self.client.set(f"claim:{self.prefix}{key}", 1, nx=True, ex=600))

    def close(self) -> None:
        """Remove everything."""
        for key in [*self.client.scan_iter(f"*{self.prefix}*")]:
            self.client.delete(key)
        self.client.close()


def open_shelf(folder: Path) -> shelve.Shelf[Any]:
    """Open the shelf of a folder, of a kind that every Python has."""
    return shelve.Shelf(dumb.open(str(folder / "tasks")))


def record_run(prefix: str, number: int) -> int:
    """Count the runs of a task on the server, from whatever process runs it."""
    store = RedisStore(prefix)
    store.client.incr(f"runs:{prefix}{number}")
    store.client.close()
    return os.getpid()


def read_until_told(prefix: str, secret: str) -> None:
    """Be a process that reads a store until its standard input is closed."""
    from tgext.asyncjob.taskrunners import StoreTaskReader

    store = RedisStore(prefix)
    with StoreTaskReader(store, secret=secret, claim=store.claim, poll_seconds=0.01):
        sys.stdin.read()
    store.client.close()


@pytest.fixture
def redis_store() -> Iterator[RedisStore]:
    """A store of its own for one test, on the Redis of this machine."""
    import redis

    store = RedisStore(f"asyncjob-test-{uuid.uuid4().hex}:")
    try:
        store.client.ping()
        is_there = True
    except redis.ConnectionError:
        is_there = False
    need(is_there, "Redis on 127.0.0.1:6379 (Debian: .ci/run installs and starts it)")
    yield store
    store.close()
