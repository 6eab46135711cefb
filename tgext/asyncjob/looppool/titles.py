"""The title of a worker in a list of processes, if setproctitle is installed."""

from __future__ import annotations

import os
import sys

try:
    import setproctitle
except ImportError:
    setproctitle = None  # type: ignore[assignment]


def title_process(worker: str) -> None:
    """Show this process as the program's, with the name of the *worker* that it is."""
    if setproctitle is not None:
        setproctitle.setproctitle(f"{os.path.basename(sys.argv[0]) or 'python'}: {worker}")
