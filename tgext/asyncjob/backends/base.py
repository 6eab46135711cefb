"""The contract between the layers above and what stores jobs.

A backend stores jobs, and decides which worker gets a job and whether a claim still holds. Whether,
when and how often a job runs again is decided above and arrives in the ``Outcome``.

connection: a database connection in the caller's transaction. What is done on it takes effect with
the commit of that transaction, and not at all if it is rolled back. None: the backend commits by
itself before it returns. A backend that is not a database is only ever given None.
``tests/backend_contract.py`` has this contract as tests; every backend passes them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from typing import Any

from ..call import Call
from ..job import Claim, Job, JobId, Outcome, Progress, Snapshot, TaskResultStatus, WorkerId
from ..task_options import TaskOptions
from ..uniqueness import UniqueKey
from .brief import Brief
from .limits import Keyed
from .listing import Counted, Cursor, Found, JobFilter, LastError
from .overview import QueuePosition
from .schedules import ScheduleStore
from .statistics import Statistics
from .steering import Steered

#: Called with uid, name and queue name of a job that has FAILED; returns the call that is enqueued
#: with that change, and its options; None: nothing is.
AfterFailure = Callable[[str, str, str], "tuple[Call, TaskOptions] | None"]


def _nothing(_uid: str, _name: str, _queue_name: str) -> None:
    """The default of ``Backend.after_failure``."""


class Standing(Enum):
    """Whether a claim holds, as the backend tells the worker."""

    HELD = "held"  #: the attempt may go on
    CANCELLED = "cancelled"  #: it holds, and the job is cancelled
    LOST = "lost"  #: the job is no longer this attempt's


class Backend(Steered, Keyed):
    """Where jobs wait. Any thread may call any method."""

    #: The name in the .ini file.
    name: str

    #: Whether a writer keeps all others out until it commits.
    has_one_writer = False

    #: How many jobs that end at once a thread may claim together.
    most_at_once = 1

    #: Whether other processes work on the same jobs.
    is_shared = False

    #: Its schedules.
    schedules: ScheduleStore

    #: What has ended, by the minute.
    statistics: Statistics

    # -- the client's side: enqueue and read

    @abstractmethod
    def new_uid(self) -> JobId:
        """Return a uid that starts with ``asyncjob_``, was never given and cannot be guessed."""

    def open(self, *, create_tables: bool) -> None:
        """Prepare the store; called once.

        create_tables: whether to create missing tables.
        Raises ConfigError if the tables are not those of this version.
        """

    def prepare(self, job: Job, like: Job | None = None) -> Job:
        """Return *job* as it will be stored. Raises NotSerializable if it cannot be stored.

        like: a prepared job of the same callable, options, context and earliest start, which has
        keys if *job* has some; what is the same can be taken from it.
        """
        return job

    def check_carrier(self, engine: Any) -> None:
        """Raise ConfigError if *engine*, that of the application's session, has no transactions
        that could store a job: if each of its statements is committed by itself."""

    #: What is enqueued with the failure of a job; set by the queue.
    after_failure: AfterFailure = staticmethod(_nothing)

    def announced(self, jobs: Sequence[Job]) -> None:
        """Wake workers for *jobs*, which were enqueued on a connection that has committed now."""

    @abstractmethod
    def enqueue(self, jobs: Sequence[Job], connection: Any = None) -> None:
        """Store *jobs* as READY, in this order."""

    def holders(self, keys: Collection[UniqueKey]) -> dict[str, JobId]:
        """Return the uids of the jobs that hold these keys, or ask for them, by key; only of those
        that are committed, and without the keys of which there is none. See ``uniqueness``."""
        return {}

    @abstractmethod
    def get(self, uid: str) -> Snapshot | None:
        """Read one job; None if it is unknown, or was removed. The uid of a job that gave way to
        another one of its unique key leads to that one, here and wherever a uid is given.

        Raises UnknownJob if *uid* shows that another process made the job.
        """

    @abstractmethod
    def progress(self, uid: str) -> Progress | None:
        """Return the last report of a job; None if the job has ended or is unknown.

        Raises UnknownJob as ``get`` does.
        """

    def get_many(self, uids: Sequence[str]) -> list[Snapshot]:
        """Read several jobs, in this order, without those that are unknown or were removed."""
        return [snapshot for uid in uids if (snapshot := self.get(uid)) is not None]

    @abstractmethod
    def find(
        self,
        wanted: JobFilter,
        after: Cursor | None,
        limit: int,
        look_at: int | None = None,
    ) -> Found:
        """Find the jobs of a list, the newest first: see ``listing``.

        after: the place from which to go on; None: begin. limit: the most jobs of the page.
        look_at: about so many jobs are looked at if no index finds those of the filter; so the page
        may have fewer, or none, and another page may follow. None: as many as it takes.
        """

    def last_errors(self, uids: Sequence[str]) -> list[LastError]:
        """Read failed jobs and their last errors only, in this order, without those that are
        unknown or were removed."""
        return [LastError.of(each) for each in self.get_many(uids)]

    @abstractmethod
    def count(self, wanted: JobFilter, most: int, look_at: int | None = None) -> Counted:
        """Count the jobs of a list, up to *most*. look_at: as for ``find``, of each part."""

    @abstractmethod
    def position(self, uid: str) -> QueuePosition | None:
        """Return the position of a READY job in its queue; None for any other."""

    @abstractmethod
    def briefs(self, uids: Collection[str]) -> dict[str, Brief]:
        """Read how several jobs stand, by as few queries as for one; changes nothing.

        Returns them by uid, without those that are unknown, removed, or of another process. A uid
        may be any text.
        """

    def is_passing(self, error: BaseException) -> bool:
        """Return whether *error*, raised by one of these methods, may pass: the store could not be
        reached or was busy."""
        return False

    def is_conflict(self, error: BaseException) -> bool:
        """Return whether *error* says that the database of the store has rolled back a transaction,
        which may succeed if it is tried again: a deadlock, a serialization failure."""
        return False

    def is_loss(self, error: BaseException) -> bool:
        """Return whether *error*, raised in an attempt, says that the store was lost, so that it is
        not an error of the job: the connection failed or was refused, or the disk is full.

        Other errors of a statement are the job's own: its timeout, a lock that is not granted.
        """
        return False

    @abstractmethod
    def wait_for_end(self, uid: str, seconds: float) -> None:
        """Return when the job may have ended, at the latest after *seconds*."""

    @abstractmethod
    def counts(self, most: int | None = None) -> dict[TaskResultStatus, int]:
        """Return the number of jobs of each status.

        most: counting a status may stop there; None: count all.
        """

    @abstractmethod
    def waiting(self, most: int | None = None) -> int:
        """Return the number of READY jobs; cheap enough for each enqueue.

        most: counting may stop there; None: count all.
        """

    def in_use(self) -> list[Callable[[], object]]:
        """Return functions that return, also in a forked copy of this process, whether the store
        is in use in such a way that the copy could not use it."""
        return []

    @abstractmethod
    def after_fork(self) -> None:
        """Begin anew in a child process, without locks, connections and jobs of the parent."""

    def close(self) -> None:
        """Close what is open; no other method may be called after it."""

    # -- the worker's side

    def register(
        self,
        worker_id: WorkerId,
        queues: Collection[str] | None,
        threads: int,
        *,
        expendable: bool = False,
    ) -> None:
        """Register a worker before it claims.

        queues: the names that it serves; None: all. expendable: whether its death does not count
        as a crash of the jobs that it runs: a reloader kills its process.
        """

    def retire(self, worker_id: WorkerId) -> None:
        """Note that a worker is stopping. From now on its death does not count as a crash, and a
        claim of it that is in progress ends at the next job that cannot be run."""

    def dismiss(self, worker_id: WorkerId) -> None:
        """Note that a worker has ended; the jobs that it still holds wait again."""

    @abstractmethod
    def claim(self, worker_id: WorkerId, queues: Collection[str] | None, limit: int) -> list[Claim]:
        """Claim up to *limit* due READY jobs for this worker; each is RUNNING then, with one more
        attempt.

        queues: names of the queues to claim from; None: all. Order: highest priority first, then
        in the order of their enqueue. If several workers claim at once, each job goes to one of
        them. Never waits; [] if nothing is due.
        """

    @abstractmethod
    def standing(self, claim: Claim, *, fresh: bool = False) -> Standing:
        """Return whether *claim* still holds, and whether the job is cancelled.

        fresh: whether to read again; else the answer may be half a second old.
        """

    @abstractmethod
    def fence(self, claim: Claim, connection: Any = None) -> bool:
        """Return whether the standing is HELD, and keep it so: a cancellation is too late from now
        on.

        This lasts, on a *connection*, until its transaction ends, else until ``finish``.
        """

    def unfence(self, claim: Claim) -> None:
        """Undo a ``fence`` that no commit has followed. If it was part of a transaction, the
        rollback has undone it."""

    @abstractmethod
    def finish(self, claim: Claim, outcome: Outcome, connection: Any = None) -> bool:
        """Store the outcome and end the claim.

        Returns False, and stores nothing, if the claim no longer holds, or if the outcome is
        SUCCESSFUL and the job was cancelled; the caller rolls back. An outcome READY of a
        cancelled job makes it CANCELLED.
        """

    def committed(self, claim: Claim) -> bool:
        """Return whether a ``finish`` of *claim* as SUCCESSFUL, whose answer was lost, was
        committed. Waits if its commit is still in progress.
        """
        return False

    def finished(self, claim: Claim) -> None:
        """Forget a claim whose ``finish`` on a connection was committed."""

    @abstractmethod
    def finish_many(self, ends: Sequence[tuple[Claim, Outcome]]) -> list[bool]:
        """``finish`` several attempts that used no connection, in as few commits as possible."""

    @abstractmethod
    def release(self, claims: Iterable[Claim]) -> None:
        """Make jobs READY again as if they had not been claimed: it counts as no attempt.

        Jobs that were cancelled meanwhile end; claims that no longer hold are ignored.
        """

    @abstractmethod
    def report(self, claim: Claim, progress: Progress) -> bool:
        """Store a progress report, visible at once to every reader; False if the standing is
        not HELD."""

    @abstractmethod
    def heartbeat(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        """Send a heartbeat; return uids and leases of the claims that the worker has lost. (By
        leases too, since it may have claimed the same job again.)"""

    @abstractmethod
    def lost(self, worker_id: WorkerId) -> list[tuple[JobId, int]]:
        """Return the same without a heartbeat, for a store that accepts no writes at the moment."""

    def watch_locks(self, worker_id: WorkerId, running: Iterable[tuple[JobId, Any]]) -> bool:
        """Report, in the log and to other processes, which jobs of this worker keep all others
        from writing. running: uids, and the connections that they use.

        Returns False if no job can do that in this store; then it need not be called again.
        """
        return False

    def is_locked(self) -> bool:
        """Return whether a transaction keeps all others from writing to this store now."""
        return False

    @abstractmethod
    def rescue(self) -> int:
        """Make the jobs of dead workers wait again; return how many."""

    def is_in_doubt(self) -> bool:
        """Return whether a job is held by a worker that may be dead, so that only further calls of
        ``rescue`` will decide."""
        return False

    @abstractmethod
    def wait(
        self, queues: Collection[str] | None, seconds: float, stopped: Callable[[], bool]
    ) -> None:
        """Return when a job of *queues* may be claimable, at the latest after *seconds*.

        Returns at once if ``stopped()``; call ``wake`` after a change that makes it true.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make every ``wait`` in this process return now."""

    @abstractmethod
    def prune(self) -> int:
        """Remove the jobs that ended longer ago than the retention; return how many."""
