"""A worker whose beats do not come through goes on with what it can read to be its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from clocks import FakeClock
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.job import JobId, WorkerId
from tgext.asyncjob.worker.heartbeat import Heartbeat

LEASE = 20

CLAIM = (JobId("a job"), 1)


class Store(MemoryBackend):
    """One that processes share, and that refuses what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.takes_writes = self.answers = True
        self.taken: list[tuple[JobId, int]] = []

    def heartbeat(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        if not self.takes_writes:
            raise ConnectionError
        return self.lost(worker_id)

    def lost(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        if not self.answers:
            raise ConnectionError
        return self.taken

    def is_passing(self, error: BaseException) -> bool:
        return True


class Patient:
    """A heartbeat with its store, its clock, and what it has stopped."""

    def __init__(self) -> None:
        self.store, self.clock = Store(), FakeClock()
        self.stopped: list[Collection[Any] | None] = []
        self.heartbeat = Heartbeat(
            WorkerId("w"), self.store, LEASE, revoke=self.stopped.append, monotonic=self.clock
        )

    def live(self, seconds: float) -> None:
        """Let heartbeat and timeout monitor work for so long."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.heartbeat.beat()
            self.heartbeat.check()
            if self.heartbeat._lease_check is not None:
                self.heartbeat._lease_check.join()


@pytest.fixture
def patient() -> Patient:
    return Patient()


def test_worker_that_reads_that_its_jobs_are_its_own_goes_on_while_nothing_can_be_written(patient):
    patient.store.takes_writes = False

    patient.live(10 * LEASE)

    assert patient.stopped == []


def test_worker_that_reads_that_a_job_was_taken_from_it_stops_it(patient):
    patient.store.takes_writes = False
    patient.live(LEASE)
    patient.store.taken = [CLAIM]

    patient.live(LEASE)

    assert patient.stopped[0] == {CLAIM}
    assert None not in patient.stopped


def test_worker_to_which_nothing_comes_through_for_a_lease_stops_all_and_not_before(patient):
    patient.live(LEASE)
    patient.store.takes_writes = patient.store.answers = False

    patient.live(LEASE - 1)
    before = list(patient.stopped)
    patient.live(2)

    assert (before, patient.stopped[0]) == ([], None)
