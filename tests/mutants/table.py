"""The mutants: what is broken, in words; the text and what replaces it; the tests that notice.

A text occurs exactly once in its file. The tests are a module and options of pytest; those that
are marked slow are named by ``-m slow``.

Not listed, since nothing can notice it: a fence that does not look at the state. A row that is not
RUNNING has no worker, which the fence looks at too.
"""

# ruff: noqa: E501 - a table
# fmt: off

from __future__ import annotations

from typing import NamedTuple

#: Where the files are.
PACKAGE = "tgext/asyncjob"


class Mutant(NamedTuple):
    name: str
    file: str
    text: str
    replaced_by: str
    tests: str


_TABLE: dict[str, list[tuple[str, str, str, str]]] = {
    "transactions/pending.py": [
        ("an abort hands the jobs over",
         "def abort(self, _txn: Any) -> None:\n", "def abort(self, _txn: Any) -> None:\n        self._end(self._hand_over)\n",
         "test_sql_promises.py -k 'aborted or doomed'"),
        ("the rollback of a savepoint keeps its jobs",
         "del self._jobs[position:]", "pass",
         "test_sessions.py -k savepoint"),
        ("jobs are written after the commit and not on its connection",
         "self._stored = bool(jobs) and", "self._stored = False and",
         "test_sql_promises.py -k 'commit_on or one_moment or flush'"),
    ],
    "transactions/scope.py": [
        ("the rollback of a session's savepoint keeps its jobs",
         "pending.drop_after(position)", "pass",
         "test_sessions.py -k savepoint"),
        ("a job that raises has its work committed",
         "self._manager.abort()\n        except", "self._manager.commit()\n        except",
         "test_sessions.py -k undone"),
        ("what the database has undone is tried twice more than it may be",
         "or not tries_left:", "or tries_left < -1:",
         "test_scope.py -k so_many_times"),
        ("an error of the job itself is tried again in place",
         "asks = isinstance(error, TransientError) or self._is_conflict(error)", "asks = True",
         "test_runs.py -k failed_attempt"),
    ],
    "transactions/connections.py": [
        ("a commit passes without completion and fence",
         "attempt.before_commit(connection)\n", "pass\n",
         "test_commits.py -k another_has_taken"),
        ("COMMIT as text passes without the fence",
         "attempt.before_commit(connection, by_statement=True)", "pass",
         "test_commits.py -k another_has_taken"),
        ("a savepoint that is SQLite's first statement commits at its end",
         "cursor.execute(f\"BEGIN {driver.isolation_level or ''}\")", "pass",
         "test_commits.py -k 'savepoint or clause'"),
        ("an interrupted statement goes on in the server",
         "record.info.pop(_IN_STATEMENT, False)", "False",
         "test_timeouts.py -m slow -k was_sent_when"),
    ],
    "transactions/sessions.py": [
        ("the completion is committed before the work in another database",
         'lambda: "~~sqlalchemy"', 'lambda: "!sqlalchemy"',
         "test_sql_promises.py -k second_database"),
    ],
    "transactions/server_cancel.py": [
        ("the connection of a job that was given up is not killed",
         "KILL {'CONNECTION' if for_good else 'QUERY'}", "KILL {'QUERY'}",
         "test_timeouts.py -m slow -k 'killed_again or in_the_server'"),
    ],
    "worker/attempt.py": [
        ("a job that swallows its cancellation commits",
         "if not self._completion.prepare(self._after_return(value)):", "if self._completion.prepare(self._after_return(value)) is None:",
         "test_sessions.py -k cancelled"),
        ("a drain costs the job its attempt",
         'self._release("drained")\n            except', "self.outcome = self._after_error(JobTimeout())\n            except",
         "test_sql_promises.py -k drained"),
        ("the connections of a job that was given up keep their locks",
         "self._running.while_inside(partial(stop_all, self.connections, for_good=True))", "pass",
         "test_sql_promises.py -k holds_locks"),
    ],
    "worker/completion.py": [
        ("the completion is committed apart from the work",
         "finish(self._claim, self.outcome, connection)", "finish(self._claim, self.outcome)",
         "test_commits.py -m slow -k 'completion_stands and postgresql'"),
        ("a commit in the middle of a job is not fenced",
         "return backend.fence(self._claim, connection)", "return True",
         "test_commits.py -k 'another_has_taken and parts'"),
        ("a try after the first does not look whether the job is still its own",
         "self._tries == 1 or backend.standing(self._claim, fresh=True) is Standing.HELD", "True",
         "test_runs.py -m slow -k changes_under_its_snapshot"),
        ("a commit whose answer was lost is not looked up",
         "return self._environment.backend.committed(self._claim)", "return False",
         "test_runs.py -m slow -k looked_up"),
    ],
    "worker/interruption.py": [
        ("a timeout ends an attempt that has returned, in the middle of its commit",
         "self._phase = _RETURNED", "pass",
         "test_sql_promises.py -k comes_too_late"),
        ("a job that swallows its interruption succeeds",
         "if self._phase != _RETURNED or self._interruption is not None:", "if False:",
         "test_timeouts.py -k catches"),
        ("an interruption hits a shielded block",
         "elif self._shields:", "elif False:",
         "test_timeouts.py -k shielded"),
        ("an attempt that was abandoned goes on at its next checkpoint",
         "if self._phase == _ABANDONED:\n            raise Abandoned\n", "pass\n",
         "test_bad_jobs.py -k zombie"),
    ],
    "worker/retry_policy.py": [
        ("a job fails one attempt late",
         "if claim.attempts_left <= 0:", "if claim.attempts_left < 0:",
         "test_tasks.py -k no_more_often"),
        ("a job is lost with its database once more than it may be",
         "claim.crashes_left > 0 and is_loss(error)", "claim.crashes_left >= 0 and is_loss(error)",
         "test_runs.py -m slow -k lost_connection"),
        ("the next attempt does not wait for its backoff",
         "return Outcome(READY, error=described, delay_seconds=delay, log=lines)", "return Outcome(READY, error=described, log=lines)",
         "test_tasks.py -k backoff"),
        ("a cancelled job is tried again",
         "if isinstance(error, JobCancelled):", "if False:",
         "test_tasks.py -k cancel"),
    ],
    "worker/heartbeat.py": [
        ("a worker without heartbeats for a lease lets its jobs go on",
         "self._revoke(None)", "pass",
         "test_heartbeat.py"),
    ],
    "worker/thread.py": [
        ("outcomes that the database refuses are dropped",
         "self._ended = ended + self._ended", "pass",
         "test_sql_outcomes.py -k takes_it_again"),
    ],
    "backends/sql/claims.py": [
        ("the fence does not look at the lease",
         "jobs.c.lease == claim.lease,\n            jobs", "jobs",
         "test_sql_backend.py -k 'sqlite and (stale or lease)'"),
        ("the fence does not look at the worker",
         "jobs.c.worker_id == claim.worker_id,", "jobs.c.worker_id.is_not(None),",
         "test_sql_lost_claim.py"),
        ("the completion does not look at the lease",
         'jobs.c.lease == bindparam(', 'jobs.c.lease >= bindparam(',
         "test_sql_backend.py -k 'sqlite and (stale or lease)'"),
        ("the completion takes a cancelled job for a success",
         "self._tables.running, not_(jobs.c.cancelled)).values(values)", "self._tables.running).values(values)",
         "test_sql_backend.py -k 'sqlite and cancel'"),
        ("a cancelled job is fenced",
         "update(jobs).where(self.held(claim), not_(jobs.c.cancelled)).values(**values)", "update(jobs).where(self.held(claim)).values(**values)",
         "test_sql_backend.py -k 'sqlite and fence_is_refused'"),
        ("another attempt's success passes for one's own",
         "and_(jobs.c.uid == claim.job.uid, jobs.c.lease == claim.lease)", "and_(jobs.c.uid == claim.job.uid)",
         "test_sql_backend.py -k success_of_another"),
        ("an outcome that is a crash is not counted",
         "values.append((jobs.c.crashes, jobs.c.crashes + 1))", "pass",
         "test_sql_backend.py -k 'sqlite and crash'"),
        ("a release costs an attempt",
         "uncounted = (jobs.c.attempts, jobs.c.attempts - 1)", "uncounted = (jobs.c.attempts, jobs.c.attempts)",
         "test_sql_backend.py -k 'sqlite and release'"),
        ("some of many outcomes that do not hold pass for stored",
         "return done.rowcount == len(claims)", "return done.rowcount > 0",
         "test_sql_backend.py -k 'sqlite and finish_many'"),
    ],
    "backends/sql/availability.py": [
        ("a cancelled job that is released waits again",
         "case((jobs.c.cancelled, states.CANCELLED), else_=again)", "again",
         "test_sql_backend.py -k 'sqlite and cancel'"),
        ("the row of a job that waits again keeps its worker",
         "    again = states.SCHEDULED if delay_seconds > 0 else states.AVAILABLE\n    return [\n        (jobs.c.worker_id, None),",
         "    again = states.SCHEDULED if delay_seconds > 0 else states.AVAILABLE\n    return [",
         "test_sql_backend.py -k 'sqlite and release'"),
    ],
    "backends/sql/taking.py": [
        ("a claim is not counted as an attempt",
         "attempts=jobs.c.attempts + 1", "attempts=jobs.c.attempts",
         "test_sql_backend.py -k 'sqlite and attempt'"),
        ("a claim has the lease of the one before",
         "lease=jobs.c.lease + 1", "lease=jobs.c.lease",
         "test_sql_backend.py -k 'sqlite and lease'"),
        ("the least urgent job is claimed first",
         "first = first.order_by(jobs.c.rank, jobs.c.number)", "first = first.order_by(jobs.c.rank.desc(), jobs.c.number)",
         "test_sql_backend.py -k 'sqlite and urgent'"),
        ("a claim takes jobs of queues that it does not serve",
         "first.where(jobs.c.queue_name == queues[0])", "first",
         "test_sql_backend.py -k 'sqlite and queue'"),
        ("a claim waits for the rows that others take",
         "return first.with_for_update(skip_locked=True) if", "return first.with_for_update() if",
         "test_sql_backend.py -k passes_over"),
        ("a delayed job starts at once",
         "and_(is_delayed, jobs.c.due_at <= self._clock.now())", "is_delayed",
         "test_sql_backend.py -k 'sqlite and delay'"),
    ],
    "backends/sql/store.py": [
        ("an enqueue notifies no other process",
         "self._notifier.notify(queue_names)", "pass",
         "test_sql_notifier.py -m slow -k was_enqueued"),
        ("a retry keeps the crashes of before",
         "(jobs.c.crashes, 0),", "",
         "test_sql_backend.py -k 'sqlite and retry'"),
        ("a retry keeps the cancellation of before",
         "(jobs.c.cancelled, False),", "",
         "test_sql_backend.py -k 'sqlite and retried'"),
        ("a job is cancelled though its commit is under way",
         "not_(jobs.c.fenced), ", "",
         "test_sql_backend.py -k 'sqlite and fence'"),
    ],
    "backends/sql/__init__.py": [
        ("a progress of a stale claim is shown",
         "if self.standing(claim) is not Standing.HELD:", "if self.standing(claim) is None:",
         "test_sql_backend.py -k 'sqlite and report'"),
        ("a worker is not told which claims it has lost",
         "return [(JobId(uid), lease) for uid, lease in lost]", "return []",
         "test_sql_backend.py -k 'sqlite and which_claims'"),
        ("a job of which nobody was notified waits for ever",
         "self._wakeup.found(self._seen_in(seen))", "pass",
         "test_sql_listener.py -m slow -k registry"),
    ],
    "backends/sql/dialects.py": [
        ("a completion is stored apart from work that SQLite has refused",
         "if connection is None or not was_refused_the_lock(connection, error):", "if connection is None:",
         "test_sql_survival.py -m slow -k writes_beside"),
    ],
    "backends/sql/faults.py": [
        ("a lock that SQLite has not given in time is tried again in place",
         "origin is not None and origin.was_open and", "origin is not None and",
         "test_runs.py -k not_give_in_time"),
    ],
    "backends/sql/worker_registry.py": [
        ("the death of a worker costs its jobs an attempt",
         "jobs.c.attempts - (0 if is_last else 1)", "jobs.c.attempts",
         "test_sql_backend.py -k costs_no_attempt"),
        ("a job ends one more worker than it may",
         "row.crashes + 1 >= self._max_crashes", "row.crashes >= self._max_crashes",
         "test_sql_backend.py -k 'fails_in_the_end_with'"),
        ("silence alone counts as a crash",
         "and (is_dead or row.suspect)", "",
         "test_sql_liveness.py -k silen"),
        ("a worker that has left counts as crashed",
         "has_left = worker.expendable or worker.seen_at == NEVER", "has_left = worker.expendable",
         "test_sql_liveness.py -k nobodys_crash"),
    ],
    "backends/sql/silence.py": [
        ("a worker that lives is given up",
         "return seconds > self.lease_of(worker_id)", "return seconds >= 0",
         "test_sql_liveness.py -k given_up"),
        ("a long pause between two looks counts as silence",
         "min(now - self._before, MOST_SECONDS)", "now - self._before",
         "test_sql_liveness.py -k silence_is_counted"),
    ],
    "backends/sql/pruning.py": [
        ("a job is pruned that was retried meanwhile",
         "jobs.c.uid.in_(found), self._tables.still(*states), is_old", "jobs.c.uid.in_(found)",
         "test_sql_backend.py -k 'sqlite and pruned'"),
    ],
}

MUTANTS = [Mutant(name, file, *rest) for file, rows in _TABLE.items() for name, *rest in rows]
