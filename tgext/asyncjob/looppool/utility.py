"""Report the resources of a process and of its event loop to a statsd server."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from typing import Any

from ..errors import MissingExtra

try:
    import psutil  # type: ignore[import-untyped]
except ImportError:
    raise MissingExtra("tgext.asyncjob.looppool.utility", "looppool") from None

log = logging.getLogger(__name__)


def peak_memory() -> int:
    """Return the largest resident memory that this process has had, in KiB."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
    except OSError:
        pass
    # Not first: on Linux fork and exec keep it, so a worker would report that of its parent.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


class ResourceReporter:
    """Sends gauges under *prefix*: ``cpu``, ``maxrss``, ``rss``, and the backlog of the loop.

    statsd: a client of the ``statsd`` package; only its ``pipeline()`` is used.
    cpu: a share of one CPU, from the second report on. maxrss, rss: in KiB.
    ioloop.handler: file descriptors that it watches; ioloop.callback: callbacks that are ready;
    ioloop.timeout: timers; ioloop.lag: milliseconds that this report is late.
    A gauge that the loop does not have is left out. ioloop: asyncio's loop or Tornado's.
    """

    sleep_time: float = 10  #: seconds from one report to the next

    def __init__(self, ioloop: Any, statsd: Any, prefix: str = "process") -> None:
        loop = getattr(ioloop, "asyncio_loop", ioloop)  # Tornado's has asyncio's inside
        self._loop: asyncio.AbstractEventLoop = loop
        self._statsd = statsd
        self._prefix = prefix
        self._process = psutil.Process()
        self._last: tuple[float, float] | None = None
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_running = False

    def start(self) -> None:
        """Report now and every ``sleep_time`` seconds, on the loop; from any thread."""
        if not self._is_running:
            self._is_running = True
            self._loop.call_soon_threadsafe(self._report)

    def stop(self) -> None:
        """Stop reporting; called in the loop's thread."""
        self._is_running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _report(self) -> None:
        if not self._is_running:
            return
        try:
            with self._statsd.pipeline() as pipe:
                for name, value in self._gauges().items():
                    pipe.gauge(f"{self._prefix}.{name}", value)
        except OSError as error:
            log.warning("statsd cannot be reached: %s", error)
        self._due = self._loop.time() + self.sleep_time
        self._timer = self._loop.call_at(self._due, self._report)

    def _gauges(self) -> dict[str, float]:
        gauges: dict[str, float] = {}
        now, times = self._loop.time(), self._process.cpu_times()
        used = times.user + times.system
        if self._last is not None:
            then, used_then = self._last
            gauges["cpu"] = (used - used_then) / max(now - then, 1e-9)
        self._last = (now, used)
        gauges["rss"] = rss = self._process.memory_info().rss // 1024
        gauges["maxrss"] = max(rss, peak_memory())
        gauges.update(self._backlog())
        if self._due is not None:
            gauges["ioloop.lag"] = max(0.0, now - self._due) * 1000
        return gauges

    def _backlog(self) -> dict[str, float]:
        """Return the gauges of private attributes of asyncio's loops; other loops may lack them."""
        selector = getattr(self._loop, "_selector", None)
        found = {
            "ioloop.handler": None if selector is None else selector.get_map(),
            "ioloop.callback": getattr(self._loop, "_ready", None),
            "ioloop.timeout": getattr(self._loop, "_scheduled", None),
        }
        return {name: len(things) for name, things in found.items() if things is not None}
