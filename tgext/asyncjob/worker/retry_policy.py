"""Decide the outcome of an attempt: whether the job runs again, and when. No other module does.

It uses no backend: it returns an Outcome, which the attempt stores.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import JobCancelled, JobTimeout, WorkerCrashed
from ..job import CANCELLED, FAILED, READY, SUCCESSFUL, Claim, Outcome, TaskError, outside_frames
from ..task_options import BACKOFF_SECONDS
from ..task_result import NotKept, kept

log = logging.getLogger(__name__)

#: The outcome of most jobs.
_SUCCESS = Outcome(SUCCESSFUL)


def after_return(value: Any, claim: Claim, lines: tuple[str, ...]) -> Outcome:
    """Return the outcome of an attempt whose call returned *value*. lines: its log."""
    if value is None and not lines:
        return _SUCCESS
    try:
        result = kept(value)
    except Exception as error:  # noqa: BLE001 - the value's own code runs; the job has succeeded
        result = NotKept(f"looking into it raised {type(error).__name__}")
    if isinstance(result, NotKept):
        log.warning("job=%s succeeded, return value not kept: %s", claim.job.uid, result.why)
    return Outcome(SUCCESSFUL, result, log=lines)


def after_crash(why: WorkerCrashed, claim: Claim, delay_seconds: float = 0.0) -> Outcome:
    """Return the outcome of an attempt whose process died, and log it.

    As after the death of a worker, the job runs again at most ``max_crashes`` times, and that costs
    no attempt. delay_seconds: the pause before it runs again.
    """
    is_last = claim.crashes_left <= 0
    log.warning("job=%s %s: %s", claim.job.uid, "failed" if is_last else "waits again", why)
    error = TaskError.of(why)
    if is_last:
        return Outcome(FAILED, error=error, crashed=True)
    return Outcome(READY, error=error, delay_seconds=delay_seconds, crashed=True)


def after_error(
    error: BaseException,
    claim: Claim,
    lines: tuple[str, ...],
    *,
    is_loss: Callable[[BaseException], bool],
    jitter: float,
) -> Outcome:
    """Return the outcome of an attempt that raised *error*, and log it.

    lines: the attempt's log. is_loss: whether an error is the loss of the jobs' database, which
    counts as a crash and costs no attempt. jitter: 0 to 1, see ``TaskOptions.delay_seconds``.
    """
    job = claim.job
    if isinstance(error, JobCancelled):
        return Outcome(CANCELLED, log=lines)
    if isinstance(error, JobTimeout) and error.seconds is None:
        error = JobTimeout(job.options.timeout).with_traceback(error.__traceback__)
    described = TaskError.of(error)
    if claim.crashes_left > 0 and is_loss(error):
        delay = BACKOFF_SECONDS * (1 + jitter)
        log.warning(
            "job=%s attempt=%d lost its database, next attempt in %.1fs: %s",
            job.uid, claim.attempt, delay, described.message,
        )  # fmt: skip
        return Outcome(READY, error=described, delay_seconds=delay, log=lines, crashed=True)
    is_worth_it = job.options.is_worth_a_retry(error)
    if claim.attempts_left <= 0 or not is_worth_it:
        why = "no attempts left" if is_worth_it else "not an error to retry"
        log.error(
            "job=%s attempt=%d call=%s failed, %s: %s",
            job.uid, claim.attempt, job.call.name, why, described.message,
            exc_info=(type(error), error, outside_frames(error)),
        )  # fmt: skip
        return Outcome(FAILED, error=described, log=lines)
    number = max(job.options.max_attempts - claim.attempts_left, 1)
    try:
        delay = job.options.delay_seconds(number, jitter)
    except BaseException as mistake:  # it is the application's own function
        log.exception("job=%s its backoff raised, no further attempt", job.uid)
        return Outcome(FAILED, error=TaskError.of(mistake), log=lines)
    log.warning(
        "job=%s attempt=%d call=%s failed, next attempt in %.1fs: %s",
        job.uid, claim.attempt, job.call.name, delay, described.message,
    )  # fmt: skip
    return Outcome(READY, error=described, delay_seconds=delay, log=lines)
