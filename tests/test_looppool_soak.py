"""100,000 messages: none lost, none doubled, evenly spread; and workers killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter

import pytest

import looppool_workers as workers
from looppool_workers import REPLACING_METHOD
from test_looppool_pool import Gathering, is_gone, run

MESSAGES = 100_000


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # dead already, and about to be replaced
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("pool_size", [2, 8])
def test_none_of_many_messages_is_lost_or_doubled(pool_size):
    async def program() -> Gathering:
        async with Gathering(workers.Late, pool_size) as pool:
            for number in range(MESSAGES):
                await pool.put(number)
        return pool

    pool = run(program())

    assert sorted(task for task, _ in pool.results) == list(range(MESSAGES))
    counts = Counter(number for _, number in pool.results)
    assert counts == dict.fromkeys(range(pool_size), MESSAGES // pool_size)
    assert all(is_gone(pid) for pid in pool.pids)


@pytest.mark.slow
def test_none_of_many_messages_is_lost_when_workers_are_killed(caplog):
    kills = 8

    async def program() -> Gathering:
        # The handlers do not wait for room, which others' results take while one is replaced.
        bound = {"max_results": MESSAGES}
        async with Gathering(workers.Echo, 4, start_method=REPLACING_METHOD, **bound) as pool:
            for message in range(MESSAGES):
                await pool.put(message)
                number, rest = divmod(message, MESSAGES // kills)
                if rest == MESSAGES // kills // 2:
                    kill(pool.pids[number % 4])
        return pool

    pool = run(program())

    # a result and the word that its message is done go in one frame, which comes whole or not
    assert sorted(task for task, _ in pool.results) == list(range(MESSAGES))
    assert pool.lost == []
    assert caplog.text.count("killed by signal 9") >= kills // 2


@pytest.mark.slow
def test_killed_workers_messages_are_each_done_or_reported():
    options = {"when_worker_dies": "report", "start_method": REPLACING_METHOD}

    async def program() -> Gathering:
        async with Gathering(workers.Echo, 2, **options) as pool:
            for number in range(MESSAGES // 5):
                await pool.put(number)
                if number % 4000 == 2000:
                    kill(pool.pids[0])
        await asyncio.sleep(0)
        return pool

    pool = run(program())

    lost = [message for message, _ in pool.lost]
    assert lost
    assert sorted([*lost, *(task for task, _ in pool.results)]) == list(range(MESSAGES // 5))
