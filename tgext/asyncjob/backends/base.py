"""The contract between the layers above and what stores jobs.

A backend stores jobs, and decides which worker gets a job and whether a claim still holds. Whether,
when and how often a job runs again is decided above and arrives in the ``Outcome``.

connection: a database connection in the caller's transaction. What is done on it takes effect with
the commit of that transaction, and not at all if it is rolled back. None: the backend commits by
itself before it returns. A backend that is not a database is only ever given None.
``tests/backend_contract.py`` has this contract as tests; every backend passes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ..job import Claim, Job, JobId, Outcome, Progress, Snapshot, TaskResultStatus, WorkerId


class Backend(ABC):
    """Where jobs wait. Any thread may call any method."""

    #: The name in the .ini file.
    name: str

    #: Whether a writer keeps all others out until it commits.
    has_one_writer = False

    #: How many jobs that end at once a thread may claim together.
    most_at_once = 1

    #: Whether other processes work on the same jobs.
    is_shared = False

    # -- the client's side: enqueue and read

    @abstractmethod
    def new_uid(self) -> JobId:
        """Return a uid that starts with ``asyncjob_``, was never given and cannot be guessed."""

    def open(self, *, create_tables: bool) -> None:  # noqa: B027 - memory is there
        """Prepare the store; called once.

        create_tables: whether to make missing tables.
        Raises ConfigError if the tables are not those of this version.
        """

    def prepare(self, job: Job) -> Job:
        """Return *job* as it will be kept; raises NotSerializable if it cannot be."""
        return job

    def check_carrier(self, engine: Any) -> None:  # noqa: B027 - where there is none
        """Raise ConfigError where no transaction on *engine*, the application's, would carry a
        job, since each of its statements commits by itself."""

    def announced(self, jobs: Sequence[Job]) -> None:  # noqa: B027 - memory wakes in enqueue
        """Wake workers for *jobs*, which were enqueued on a connection and are committed now."""

    @abstractmethod
    def enqueue(self, jobs: Sequence[Job], connection: Any = None) -> None:
        """Store *jobs* as READY, in this order."""

    @abstractmethod
    def get(self, uid: str) -> Snapshot | None:
        """Read one job; None if nothing is known of it (any more).

        Raises UnknownJob if *uid* shows that another process made the job.
        """

    @abstractmethod
    def progress(self, uid: str) -> Progress | None:
        """Return the last report of a job that has not ended; None if it has, or is unknown.

        Raises UnknownJob as ``get`` does.
        """

    @abstractmethod
    def cancel(self, uid: str, connection: Any = None) -> bool | None:
        """Cancel a READY job, or ask a RUNNING one to stop; False if it had ended.

        False too where its work is just being committed. After True no attempt of it can
        ``finish`` as SUCCESSFUL, nor lead to another. None if nothing is known of it.
        """

    @abstractmethod
    def retry(self, uid: str, connection: Any = None) -> bool | None:
        """Make an ended job READY with a fresh budget of attempts; False if it has not ended.

        Its errors and its number of attempts are kept. None if nothing is known of it.
        """

    def is_passing(self, error: BaseException) -> bool:
        """Tell whether *error*, of one of these methods, may pass: the store was lost or busy."""
        return False

    def is_conflict(self, error: BaseException) -> bool:
        """Tell whether *error* says that the store's database has undone a transaction and asks
        for another try: a deadlock, a serialisation failure."""
        return False

    def is_loss(self, error: BaseException) -> bool:
        """Tell whether *error*, raised in an attempt, says that the store was lost under it, so
        that it is not the job's: the connection broke or could not be had, or the disk is full.

        What a statement of the job came to is the job's: its timeout, a lock not to be had.
        """
        return False

    @abstractmethod
    def wait_for_end(self, uid: str, seconds: float) -> None:
        """Return when the job may have ended, after *seconds* at the latest."""

    @abstractmethod
    def counts(self) -> dict[TaskResultStatus, int]:
        """Count the jobs by status; every status is there."""

    @abstractmethod
    def waiting(self, most: int | None = None) -> int:
        """Count the READY jobs; cheap enough for every enqueue.

        most: counting may end there.
        """

    def in_use(self) -> list[Callable[[], object]]:
        """Return functions that tell, also in a copy of this process, whether the store is in use
        in a way that a forked child could not work with it."""
        return []

    @abstractmethod
    def after_fork(self) -> None:
        """Begin anew in a child process: no lock, connection or job of the parent's is used."""

    def close(self) -> None:  # noqa: B027 - memory has nothing to close
        """Close what is open; no other method is called after it."""

    # -- the worker's side

    def register(  # noqa: B027 - the workers of memory are this process's
        self,
        worker_id: WorkerId,
        queues: Collection[str] | None,
        threads: int,
        *,
        expendable: bool = False,
    ) -> None:
        """Register a worker before it claims.

        expendable: whether its death is no crash of what it runs: it is under a reloader.
        """

    def retire(self, worker_id: WorkerId) -> None:  # noqa: B027 - as register
        """Note that a worker was told to stop: its death from now on is no crash, and a claim of
        its that is under way ends at the next job that cannot be run."""

    def dismiss(self, worker_id: WorkerId) -> None:  # noqa: B027 - as register
        """Note that a worker has ended: the jobs that it still holds wait again."""

    @abstractmethod
    def claim(self, worker_id: WorkerId, queues: Collection[str] | None, limit: int) -> list[Claim]:
        """Take up to *limit* due READY jobs for this worker; they are RUNNING, one attempt more.

        queues: names to take from; None: all. Highest priority first, then in the order of
        their enqueue. However many claim at one instant, a job goes to one of them. Never
        waits; [] when nothing is due.
        """

    @abstractmethod
    def holds(self, claim: Claim, *, fresh: bool = False) -> bool:
        """Tell whether *claim* still holds and the job is not cancelled.

        fresh: by a new read; else an answer may be half a second old.
        """

    @abstractmethod
    def is_cancelled(self, claim: Claim) -> bool:
        """Tell whether *claim* still holds and the job is cancelled."""

    @abstractmethod
    def fence(self, claim: Claim, connection: Any = None) -> bool:
        """Tell as ``holds`` does, and keep it so: from here on a cancellation comes too late.

        On a *connection* until its transaction ends, else until ``finish``.
        """

    def unfence(self, claim: Claim) -> None:  # noqa: B027 - a rollback may do it
        """Take a ``fence`` back that no commit followed; where it was part of the transaction,
        the rollback has done that."""

    @abstractmethod
    def finish(self, claim: Claim, outcome: Outcome, connection: Any = None) -> bool:
        """Store the outcome and end the claim.

        False, and nothing is stored, when the claim no longer holds, or when the outcome is
        SUCCESSFUL and the job was cancelled: the caller rolls back. An outcome READY of a
        cancelled job ends it as CANCELLED.
        """

    def committed(self, claim: Claim) -> bool:
        """Tell whether a ``finish`` of *claim* as SUCCESSFUL came about whose answer was lost.

        Waits where its commit is still under way.
        """
        return False

    def finished(self, claim: Claim) -> None:  # noqa: B027 - memory forgets in finish
        """Forget a claim whose ``finish`` on a connection was committed."""

    @abstractmethod
    def finish_many(self, ends: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        """``finish`` each, for attempts that used no connection, in as few commits as possible."""

    @abstractmethod
    def release(self, claims: Iterable[Claim]) -> None:
        """Make jobs READY again as if they had not been claimed: it costs no attempt.

        Those that were cancelled meanwhile end; claims that no longer hold are passed over.
        """

    @abstractmethod
    def report(self, claim: Claim, progress: Progress) -> bool:
        """Store a progress, visible at once to every reader; False as ``holds`` does."""

    @abstractmethod
    def heartbeat(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        """Send a heartbeat; return the claims that the worker has lost to others: uids and leases,
        since it may have claimed the same job anew."""

    @abstractmethod
    def lost(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        """Return the same where the store takes no writes: it is only read."""

    def watch_locks(self, worker_id: WorkerId, running: Iterable[tuple[JobId, Any]]) -> bool:
        """Report which jobs of this worker keep all others from writing, in the log and to other
        processes. running: uids, and connections in use.

        False where no job can, and there is no need to call it again.
        """
        return False

    @abstractmethod
    def rescue(self) -> int:
        """Take the jobs of dead workers away from them; return how many."""

    def is_in_doubt(self) -> bool:
        """Tell whether a job is held by a worker that may be dead, which only further calls of
        ``rescue`` will show."""
        return False

    @abstractmethod
    def wait(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        """Return when something of *queues* may be claimable, after *seconds* at the latest.

        At once if ``stopped()``; call ``wake`` after a change that makes it true.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make every ``wait`` of this process that is under way return now."""

    @abstractmethod
    def prune(self) -> int:
        """Remove ended jobs older than the retention; return how many."""
