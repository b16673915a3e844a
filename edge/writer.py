"""The thread behind one stream: a bounded queue in front, a `StreamLog` behind, never a wait for the caller.

The queue is a deque: adding to it takes no lock and wakes nobody, since a control loop must not wait for a thread that
holds one. The thread looks into it every `poll_s`, or when it is half full, or when something is ordered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import SpoolError
from edge.preview import Made, PreviewQuality
from edge.records import Topic
from edge.settings import EdgeSettings
from edge.stream_log import Alarm, StreamLog, log_alarm
from edge.topics import video_message, video_topic
from edge.video import Color, VideoEncoder

WAIT_S = 60.0
BATCH = 256


@dataclass(frozen=True, slots=True)
class Picture:
    """One camera image, uint8 of shape (height, width, 3). Times in ns since the Unix epoch."""

    t_ns: int
    publish_ns: int
    image: NDArray[np.uint8]
    color: Color


class Append(Protocol):
    """Writes one queued reading to a stream's log; False where it had to be let go."""

    def __call__(self, log: StreamLog, reading: Any) -> bool: ...


def append_message(log: StreamLog, reading: tuple[int, Topic, int, bytes]) -> bool:
    """Messages come encoded already, as (capture time, topic, steady time, bytes)."""
    t_ns, topic, publish_ns, data = reading
    return log.append(topic, t_ns, publish_ns, data)


class CameraAppender:
    """Encodes the pictures of one camera; a new segment, like a new picture size, begins with a keyframe.

    `preview_of`: pictures are made small, and keep to `preview_share` of the bytes that this camera makes.
    """

    def __init__(self, stream: str, settings: EdgeSettings, *, preview_of: CameraAppender | None = None) -> None:
        self.stream = stream
        self.made = Made()
        self._settings = settings
        self._quality = preview_of and PreviewQuality(
            self.made, preview_of.made, camera_crf=settings.crf, share=settings.preview_share
        )
        self._topic = video_topic(stream)
        self._encoder: VideoEncoder | None = None

    def __call__(self, log: StreamLog, reading: Picture) -> bool:
        height, width = reading.image.shape[:2]
        if self._encoder is None or self._encoder.source_size != (width, height):
            log.cut()
            self._encoder = self._new_encoder(width, height)
        keyframe = log.is_empty or log.needs_restart
        if self._quality:
            if self._quality.is_spent:
                self.made.count(reading.t_ns, 0)
                return True
            begins_gop = keyframe or self._encoder.is_keyframe_due(reading.t_ns)
            if begins_gop and self._quality.has_changed():
                self._encoder = self._new_encoder(width, height)
        packet = self._encoder.encode(reading.t_ns, reading.image, color=reading.color, keyframe=keyframe)
        self.made.count(reading.t_ns, len(packet.data))
        message = video_message(reading.t_ns, packet.data, stream=self.stream)
        return log.append(self._topic, reading.t_ns, reading.publish_ns, message, restart=packet.keyframe)

    def _new_encoder(self, width: int, height: int) -> VideoEncoder:
        known = self._settings
        if not self._quality:
            return VideoEncoder(
                width=width,
                height=height,
                gop_frames=known.gop_frames,
                crf=known.crf,
                max_bit_rate=known.max_bit_rate,
            )
        scale = min(1.0, known.preview_width / width)
        return VideoEncoder(
            width=max(2, round(width * scale / 2) * 2),
            height=max(2, round(height * scale / 2) * 2),
            source_size=(width, height),
            fps=known.preview_fps,
            gop_frames=known.gop_frames,
            crf=self._quality.crf,
            max_bit_rate=round(known.max_bit_rate * known.preview_share),
        )


@dataclass(frozen=True, slots=True)
class Dropped:
    """Readings of one stream that were let go: how many, and the least and the greatest of their capture times."""

    stream: str
    count: int
    first_ns: int
    last_ns: int
    reason: str

    def and_at(self, t_ns: int) -> Dropped:
        """One more at a time."""
        return replace(self, count=self.count + 1, first_ns=min(self.first_ns, t_ns), last_ns=max(self.last_ns, t_ns))


@dataclass(slots=True)
class _Order:
    what: Literal["flush", "cut", "close"]
    done: threading.Event
    error: str = ""


class StreamWriter:
    """Takes readings from any thread and writes them from its own."""

    def __init__(
        self,
        log: StreamLog,
        append: Append,
        *,
        queue_size: int,
        poll_s: float,
        wait_for_room: bool,
        alarm: Alarm = log_alarm,
    ) -> None:
        self.log = log
        self.dropped = 0
        self._append, self._poll_s, self._wait_for_room, self._alarm = append, poll_s, wait_for_room, alarm
        self._queue: deque[Any] = deque()
        self._queue_size, self._wake_at = queue_size, max(1, queue_size // 2)
        self._orders: deque[_Order] = deque()
        self._wake, self._room = threading.Event(), threading.Event()
        self._drops: list[Dropped] = []
        self._dropping = threading.Lock()  # only what is let go takes it
        self._has_closed = False
        self._thread = threading.Thread(target=self._run, name=f"recorder-{log.stream}", daemon=True)
        self._thread.start()

    def put(self, reading: Any) -> bool:
        """Queue a reading (a tuple that begins with its capture time, or a `Picture`).

        False, and counted in `dropped`, where the queue is full.
        """
        queued = len(self._queue)
        if queued >= self._queue_size and not self._has_room():
            self._drop(reading, "queue full")
            return False
        self._queue.append(reading)
        if queued == self._wake_at:
            self._wake.set()
        return True

    def flush(self) -> None:
        """Return when everything put so far is durable; `SpoolError` where the disk does not take it."""
        self._order("flush")

    def cut(self) -> None:
        self._order("cut")

    def close(self) -> None:
        """Write what is queued, seal, and end the thread."""
        try:
            self._order("close")
        finally:
            self._thread.join(WAIT_S)
            while self.has_ended and self._queue:  # it came while we closed
                self._drop(self._queue.popleft(), "recorder closed")

    def take_drops(self) -> list[Dropped]:
        """What was let go since the last call, stretches of the same reason joined."""
        with self._dropping:
            drops, self._drops = self._drops, []
        return drops

    @property
    def has_ended(self) -> bool:
        """Whether its thread will touch the journal no more."""
        return not self._thread.is_alive()

    def _has_room(self) -> bool:
        """Wait for room where that is wished; a control loop does not."""
        deadline = time.monotonic() + WAIT_S
        while self._wait_for_room and time.monotonic() < deadline:
            self._room.clear()
            self._wake.set()
            if len(self._queue) < self._queue_size or self._room.wait(1.0):
                return True
        return False

    def _drop(self, reading: Any, reason: str) -> None:
        t_ns = reading.t_ns if isinstance(reading, Picture) else reading[0]
        with self._dropping:
            self.dropped += 1
            if self._drops and self._drops[-1].reason == reason:
                self._drops[-1] = self._drops[-1].and_at(t_ns)
            else:
                self._drops.append(Dropped(self.log.stream, 1, t_ns, t_ns, reason))

    def _order(self, what: Literal["flush", "cut", "close"]) -> None:
        order = _Order(what, threading.Event())
        self._orders.append(order)
        self._wake.set()
        if not order.done.wait(WAIT_S):
            raise SpoolError(f"stream {self.log.stream} did not {what} within {WAIT_S:.0f} s")
        if order.error:
            raise SpoolError(order.error)

    def _run(self) -> None:
        while not self._has_closed:
            orders = [self._orders.popleft() for _ in range(len(self._orders))]  # before the queue: they cover it
            queued = len(self._queue)  # no more, since readings may come as fast as they are written
            while queued > 0:
                queued -= self._write_batch(min(BATCH, queued))
            self._guard(self._keep_up)
            for order in orders:
                self._carry_out(order)
            if not orders and not self._queue:
                self._wake.wait(self._poll_s)
                self._wake.clear()

    def _write_batch(self, size: int) -> int:
        """Some of what is queued; then the callers who wait for room may go on. Returns `size`."""
        for _ in range(size):
            reading = self._queue.popleft()
            try:
                if self._append(self.log, reading):
                    continue
            except Exception as error:  # noqa: BLE001 - told as an alarm, and counted
                self._alarm(f"stream {self.log.stream}: {type(error).__name__}: {error}")
                self.log.needs_restart = True  # what is encoded next may build on what is not there
            self._drop(reading, "disk or encoder failed")
        self._guard(self._keep_up)
        self._room.set()
        return size

    def _keep_up(self) -> None:
        self.log.sync()
        if self.log.is_due:
            self.log.cut()

    def _carry_out(self, order: _Order) -> None:
        if order.what != "flush":
            self._guard(self.log.cut)
        self._guard(lambda: self.log.sync(now=True))
        if not self.log.is_durable or (order.what != "flush" and not self.log.is_empty):
            order.error = f"stream {self.log.stream} is not on the disk: see its alarm"
        self._has_closed = self._has_closed or order.what == "close"
        order.done.set()

    def _guard(self, act: Callable[[], None]) -> None:
        """Do a thing; nothing that goes wrong in it ends the writing, or the robot's program."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - told as an alarm, and what was lost is counted
            self._alarm(f"stream {self.log.stream}: {type(error).__name__}: {error}")
