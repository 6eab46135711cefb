"""A bound on calls to a server that may never answer.

If the packets of a connection are dropped, a call waits as long as the kernel does, a quarter of an
hour or more, and no exception reaches the waiting thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def within(seconds: float, act: Callable[[], object], what: str) -> bool:
    """Call *act* in a daemon thread, and wait *seconds* for its end.

    what: what it does, for the log, after "could not".
    Returns False if it has not ended by then; its thread continues. What *act* raises is logged.
    """

    def run() -> None:
        try:
            act()
        except Exception:
            log.exception("could not %s", what)

    thread = threading.Thread(target=run, name="asyncjob-bounded", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # from Python 3.12 on no thread starts once the interpreter exits
        run()
        return True
    thread.join(seconds)
    if thread.is_alive():
        log.warning("could not %s within %gs: going on without it", what, seconds)
        return False
    return True
