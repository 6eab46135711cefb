"""A process that does nothing, for a test in which the process of a worker dies."""

from __future__ import annotations

import subprocess

from tgext.asyncjob.backends.worker_id import new_worker_id
from tgext.asyncjob.job import WorkerId


class OtherProcess:
    """Lives until ``die``. worker_id: of a worker in it, new each time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["sleep", "1000"])
        self.pid = self._process.pid

    def worker_id(self, lease_seconds: float | None = None) -> WorkerId:
        """Return the id of a worker of this process."""
        return new_worker_id(lease_seconds, self.pid)

    def kill(self) -> None:
        """End it as SIGKILL does; its parent has not asked for its status."""
        self._process.kill()

    def die(self) -> None:
        """End it, so that nothing of it is left."""
        self._process.kill()
        self._process.wait()
