"""The parent's side of one worker: the messages that wait for it, and those that it has.

A handle outlives the processes of its worker. Messages are sent in frames: the first at once, and
while two frames are in flight, further messages wait and form the next one. So a single message is
not delayed, and many need one write. The pool holds its lock while it uses a handle.
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

#: One frame that the worker handles, and one that it finds when it is done with that.
MOST_FRAMES_IN_FLIGHT = 2

#: A frame ends with the message that reaches one of these: a number of messages, and of bytes.
FRAME_MESSAGES = 512
FRAME_BYTES = 1 << 18

#: A message that so many workers had when they died is lost.
MOST_DEATHS = 3


class Envelope:
    """A pickled message. label: given by its sender; stays in this process."""

    __slots__ = ("deaths", "label", "payload")

    def __init__(self, payload: bytes, label: object) -> None:
        self.payload = payload
        self.label = label
        self.deaths = 0


class WorkerHandle:
    """One worker. Used under the pool's lock, except ``channel`` and ``process``."""

    def __init__(self, number: int, most_tasks: int) -> None:
        self.number = number
        self.most_tasks = most_tasks
        self.process: BaseProcess | None = None
        self.channel: Channel | None = None
        self.pid = 0
        self.has_started = False  #: whether its present process has reported that it is ready
        self.was_found_full = (
            False  #: whether a sender found it full, and was not told of space since
        )
        self.undone_results = 0  #: results that are not done
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
        """Whether it has twice its share: as many that wait as it may have at a time."""
        return len(self._waiting) + len(self._sent) >= 2 * self.most_tasks

    def attach(self, process: BaseProcess, channel: Channel) -> None:
        """Use a process that is about to be started."""
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
        """Have the worker end when its messages are done."""
        self._is_closing = True

    def request_frame(self) -> None:
        """Have the next ``send`` send a frame, even an empty one: there is space for results."""
        self._is_frame_requested = True

    def send_if_idle(self) -> bool:
        """Send waiting messages if no frame is in flight; else they become the next frame.

        Returns False if the stream did not take all of it.
        """
        return self._frames_in_flight > 0 or self.send()

    def send(self) -> bool:
        """Send as many frames as may be in flight. Returns False if the stream did not take all.

        ``resume`` sends the rest, once there is space.
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
        except OSError as error:  # it has died, which the monitor notices too
            log.debug("worker %s cannot be written to: %s", self.number, error)
        return not channel.is_clogged

    def resume(self) -> None:
        """Send what the stream did not take, and further frames."""
        if self.channel is not None:
            with contextlib.suppress(OSError):  # as above
                self.channel.resume()
            self.send()

    def _next_frame(self) -> tuple[Any, ...] | None:
        """Return the number of the first message, the messages, and whether it is the last."""
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
        """Return True, once, if there is space again after a sender found none."""
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
        """Whether its process, which has ended, was told to and had done all messages."""
        return self._was_told_to_end and not self._sent and not self._waiting

    def requeue(self, redeliver: bool) -> list[Envelope]:
        """Put the messages of the dead process before those that wait; return the lost ones.

        redeliver: False: all that it had are lost; True: those with MOST_DEATHS deaths.
        """
        had, self._sent = list(self._sent.values()), {}
        for envelope in had:
            envelope.deaths += self.has_started  # one that was not ready has not read it
        kept = [envelope for envelope in had if redeliver and envelope.deaths < MOST_DEATHS]
        lost = [envelope for envelope in had if not (redeliver and envelope.deaths < MOST_DEATHS)]
        self._waiting.extendleft(reversed(kept))
        return lost

    def clear(self) -> list[Envelope]:
        """Remove all messages, sent or not, and return them."""
        left = [*self._sent.values(), *self._waiting]
        self._sent = {}
        self._waiting.clear()
        return left
