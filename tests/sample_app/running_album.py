"""What the tests of the sample application share besides fixtures."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_APP = Path(__file__).resolve().parents[2] / "sample_app"
SECONDS = 20  #: the longest wait for anything; a miss is a failure


@dataclass(frozen=True)
class Album:
    """A running photo album and the doors that tests need."""

    wsgi: Any
    web: Any  #: a webtest.TestApp
    queue: Any
    media_dir: Path

    def files(self, folder: str) -> list[Path]:
        return sorted((self.media_dir / folder).iterdir())


class Gate:
    """Hold the work of a job: each piece waits until the test lets it pass."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self._arrivals = threading.Semaphore(0)

    def let_pass(self, number: int = 1) -> None:
        self._permits.release(number)

    def wait_for_arrival(self) -> None:
        """Wait until one more piece of work stands at the gate."""
        assert self._arrivals.acquire(timeout=SECONDS), "the job never came to the gate"

    def before(self, work: Any) -> Any:
        """Give *work*, behind the gate."""

        def held(*args: Any) -> Any:
            self._arrivals.release()
            assert self._permits.acquire(timeout=SECONDS), "the test never opened the gate"
            return work(*args)

        return held
