"""The parent's side of one worker: what waits for it, what it has, what it may send.

A handle outlives the processes of its worker. Messages go out in frames: the first at once, and
while two frames are in flight the rest waits and becomes the next one. So a single message is not
delayed, and many cost one write. Nothing here locks: the pool does.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import deque
from multiprocessing.process import BaseProcess
from typing import Any

from .channel import Channel

log = logging.getLogger(__name__)

#: One that the worker takes messages from, and one that is there when it has done so.
MOST_FRAMES_IN_FLIGHT = 2

#: A frame ends with the message that reaches either; the second is in bytes.
FRAME_MESSAGES = 512
FRAME_BYTES = 1 << 18

#: A message that as many workers have died with is not given to another one.
MOST_DEATHS = 3


class Envelope:
    """A pickled message.

    label: its sender's name for it; stays in this process.
    """

    __slots__ = ("deaths", "label", "payload")

    def __init__(self, payload: bytes, label: object) -> None:
        self.payload = payload
        self.label = label
        self.deaths = 0


class WorkerHandle:
    """See the module. Used under the pool's lock, but for ``channel`` and ``process``."""

    def __init__(self, number: int, most_tasks: int) -> None:
        self.number = number
        self.most_tasks = most_tasks
        self.process: BaseProcess | None = None
        self.channel: Channel | None = None
        self.pid = 0
        self.has_started = False  #: whether this process has said that it is ready
        self.was_found_full = False  #: whether a sender has found it full since it last had space
        self.undone_results = 0  #: results that are not dealt with
        self.is_gone = False  #: whether it ended for good
        self._waiting: deque[Envelope] = deque()
        self._sent: dict[int, Envelope] = {}
        self._next_number = 0
        self._frames_in_flight = 0
        self._is_frame_requested = False
        self._is_closing = False
        self._was_told_to_end = False

    def __len__(self) -> int:
        """How many messages it has that are not done."""
        return len(self._waiting) + len(self._sent)

    @property
    def is_full(self) -> bool:
        """Whether a share waits and a share is under way, or may be."""
        return len(self._waiting) + len(self._sent) >= 2 * self.most_tasks

    def attach(self, process: BaseProcess, channel: Channel) -> None:
        """Use a process that is about to start."""
        self.process, self.channel = process, channel
        self.has_started = False
        self._frames_in_flight = 0
        self._is_frame_requested = False
        self._was_told_to_end = False

    # -- to the worker

    def accept(self, payload: bytes, label: object) -> None:
        """Take a message. Raises queue.Full."""
        if self.is_full:
            self.was_found_full = True
            raise queue.Full(
                f"worker {self.number} has {len(self._sent)} messages and {len(self._waiting)} "
                f"wait, together twice its share of max_tasks, {self.most_tasks}; try again "
                "later, or await put()"
            )
        self._waiting.append(Envelope(payload, label))

    def close(self) -> None:
        """Have the worker end when it has done what it has."""
        self._is_closing = True

    def request_frame(self) -> None:
        """Send a frame to the worker, even an empty one: there is space for results."""
        self._is_frame_requested = True

    def send_if_idle(self) -> bool:
        """Send what waits if nothing is on its way; else it goes with the next frame.

        Returns False where the stream did not take all of it.
        """
        return self._frames_in_flight > 0 or self.send()

    def send(self) -> bool:
        """Send what may go now. Returns False where the stream did not take all of it.

        The rest is for ``resume``, once there is space.
        """
        channel = self.channel
        if channel is None or channel.is_clogged:
            return True
        try:
            while self._frames_in_flight < MOST_FRAMES_IN_FLIGHT and not channel.is_clogged:
                content = self._next_frame()
                if content is None:
                    break
                self._frames_in_flight += 1
                channel.send(content)
        except OSError as error:  # it has died, which the monitor sees too
            log.debug("worker %s cannot be written to: %s", self.number, error)
        return not channel.is_clogged

    def resume(self) -> None:
        """Send what the stream did not take, and more."""
        if self.channel is not None:
            with contextlib.suppress(OSError):  # as above
                self.channel.resume()
            self.send()

    def _next_frame(self) -> tuple[Any, ...] | None:
        """(number of the first message, messages, whether it is the last)."""
        waiting, sent, most = self._waiting, self._sent, self.most_tasks
        first = number = self._next_number
        payloads: list[bytes] = []
        size = 0
        while waiting and number - first < FRAME_MESSAGES and size < FRAME_BYTES:
            if len(sent) >= most:
                break
            envelope = waiting.popleft()
            sent[number] = envelope
            payloads.append(envelope.payload)
            size += len(envelope.payload)
            number += 1
        self._next_number = number
        is_last = self._is_closing and not waiting and not self._was_told_to_end
        if not payloads and not is_last and not self._is_frame_requested:
            return None
        self._is_frame_requested = False
        self._was_told_to_end = self._was_told_to_end or is_last
        return (first, payloads, is_last)

    # -- from the worker

    def acknowledge(self, receipts: int, done: list[int]) -> None:
        """Count frames that were read and messages that are done, and send more."""
        self._frames_in_flight -= receipts
        for number in done:
            self._sent.pop(number, None)
        self.send()

    def clear_found_full(self) -> bool:
        """Whether there is space again after a sender found none; True once."""
        if not self.was_found_full or self.is_full:
            return False
        self.was_found_full = False
        return True

    def take_back(self, number: int) -> Envelope | None:
        """Take back a message that the worker cannot read."""
        return self._sent.pop(number, None)

    # -- after its death

    @property
    def ended_cleanly(self) -> bool:
        """Whether the process that is gone was told to end and left nothing undone."""
        return self._was_told_to_end and not self._sent and not self._waiting

    def requeue(self, redeliver: bool) -> list[Envelope]:
        """Take back what the dead process had, to the front of what waits; return what is lost.

        redeliver: False: all that it had is lost; True: what too many workers died with is.
        """
        had, self._sent = list(self._sent.values()), {}
        for envelope in had:
            envelope.deaths += self.has_started  # else it was not what it died of
        kept = [envelope for envelope in had if redeliver and envelope.deaths < MOST_DEATHS]
        lost = [envelope for envelope in had if not (redeliver and envelope.deaths < MOST_DEATHS)]
        self._waiting.extendleft(reversed(kept))
        return lost

    def clear(self) -> list[Envelope]:
        """Give up everything, sent or not."""
        left = [*self._sent.values(), *self._waiting]
        self._sent = {}
        self._waiting.clear()
        return left
