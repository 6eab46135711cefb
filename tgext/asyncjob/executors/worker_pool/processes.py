"""Start and end the process of a worker."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from .channel import Channel
from .results import ResultBound
from .worker_handle import WorkerHandle
from .worker_loop import HandlerFactory, run_worker

#: Seconds that a process may take to exit after its end of the channel is closed.
EXIT_SECONDS = 1.0


def start_process(
    context: Any, worker: WorkerHandle, bound: ResultBound, factory: HandlerFactory
) -> None:
    """Start a process for *worker*. Raises what multiprocessing raises.

    context: a context of multiprocessing.
    """
    ours, theirs = context.Pipe(duplex=True)
    arguments = (theirs, worker.number, bound, factory)
    name = f"asyncjob-worker-{worker.number}"
    process = context.Process(target=run_worker, args=arguments, name=name)
    # Before the start: a forked child closes its parent's ends of all channels.
    worker.attach(process, Channel(ours))
    try:
        process.start()
    except BaseException:
        worker.process = worker.channel = None
        ours.close()
        raise
    finally:
        theirs.close()
    worker.pid = process.pid or 0


def end_process(process: BaseProcess) -> str:
    """Wait for the end of a process that has closed its channel; return a text how it ended."""
    process.join(EXIT_SECONDS)
    # If other code has waited for the child, as a program may for all its children, its status is
    # lost and multiprocessing says that it is alive; its pid may be another process's by then.
    if process.is_alive() and not wait([process.sentinel], 0):
        process.kill()  # its loop has ended, so it sends nothing more
        process.join()
    status = process.exitcode
    with suppress(ValueError):  # as above: it cannot be closed
        process.close()
    if status is None:
        return "exit status unknown"
    return f"killed by signal {-status}" if status < 0 else f"exit code {status}"
