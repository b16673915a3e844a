"""The thread behind one stream: a bounded queue in front, a `StreamLog` behind, never a wait for the caller."""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.errors import SpoolError
from edge.segment import Topic
from edge.settings import EdgeSettings
from edge.stream_log import StreamLog
from edge.topics import video_message, video_topic
from edge.video import Color, VideoEncoder

WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One camera image, uint8 of shape (height, width, 3)."""

    t_ns: int
    image: NDArray[np.uint8]
    color: Color


class Append(Protocol):
    """Writes one queued reading to a stream's log."""

    def __call__(self, log: StreamLog, reading: Any) -> None: ...


def append_message(log: StreamLog, reading: tuple[Topic, int, bytes]) -> None:
    """Readings of `telemetry` come encoded already."""
    log.append(*reading)


class CameraAppender:
    """Encodes the pictures of one camera; a new segment, like a new picture size, begins with a keyframe."""

    def __init__(self, stream: str, settings: EdgeSettings) -> None:
        self._stream, self._settings = stream, settings
        self._topic = video_topic(stream)
        self._encoder: VideoEncoder | None = None

    def __call__(self, log: StreamLog, reading: Picture) -> None:
        height, width = reading.image.shape[:2]
        if self._encoder is None or (self._encoder.width, self._encoder.height) != (width, height):
            log.cut()
            self._encoder = self._new_encoder(width, height)
        packet = self._encoder.encode(reading.t_ns, reading.image, color=reading.color, keyframe=log.is_empty)
        log.append(self._topic, reading.t_ns, video_message(reading.t_ns, packet.data, stream=self._stream))

    def _new_encoder(self, width: int, height: int) -> VideoEncoder:
        known = self._settings
        return VideoEncoder(
            width=width, height=height, gop_frames=known.gop_frames, crf=known.crf, max_bit_rate=known.max_bit_rate
        )


@dataclass(frozen=True, slots=True)
class _Order:
    what: Literal["flush", "cut", "close"]
    done: threading.Event


class StreamWriter:
    """Takes readings from any thread and writes them from its own."""

    def __init__(self, log: StreamLog, append: Append, *, queue_size: int, poll_s: float, wait_for_room: bool) -> None:
        self.log = log
        self.dropped = 0
        self._append, self._poll_s, self._wait_for_room = append, poll_s, wait_for_room
        self._error: Exception | None = None
        self._queue: queue.Queue[Any] = queue.Queue(queue_size)
        self._thread = threading.Thread(target=self._run, name=f"recorder-{log.stream}", daemon=True)
        self._thread.start()

    def put(self, reading: Any) -> bool:
        """Queue a reading; False, and counted in `dropped`, where the queue is full or the disk has failed."""
        if self._error is None:
            try:
                self._queue.put(reading, block=self._wait_for_room, timeout=WAIT_S)
            except queue.Full:
                pass
            else:
                return True
        self.dropped += 1
        return False

    def flush(self) -> None:
        self._order("flush")

    def cut(self) -> None:
        self._order("cut")

    def close(self) -> None:
        """Write what is queued, seal, and end the thread."""
        self._order("close")
        self._thread.join(WAIT_S)

    @property
    def has_ended(self) -> bool:
        """Whether its thread will touch the journal no more."""
        return not self._thread.is_alive()

    def _order(self, what: Literal["flush", "cut", "close"]) -> None:
        order = _Order(what, threading.Event())
        with contextlib.suppress(queue.Full):
            self._queue.put(order, timeout=WAIT_S)
        if not order.done.wait(WAIT_S):
            raise SpoolError(f"stream {self.log.stream} did not {what} within {WAIT_S:.0f} s")
        if self._error is not None:
            raise SpoolError(f"stream {self.log.stream} cannot be written: {self._error}") from self._error

    def _run(self) -> None:
        more = True
        while more:
            try:
                item = self._queue.get(timeout=self._poll_s)
            except queue.Empty:
                item = None
            more = self._handle(item)

    def _handle(self, item: Any) -> bool:
        """Do one thing; False after the last. A failure ends the writing, never the robot's program."""
        order = item if isinstance(item, _Order) else None
        try:
            if self._error is None:
                self._write(item)
        except Exception as error:  # noqa: BLE001 - told to the caller of flush, cut and close, and counted
            self._error = error
        if self._error is not None and item is not None and order is None:
            self.dropped += 1
        if order is not None:
            order.done.set()
        return order is None or order.what != "close"

    def _write(self, item: Any) -> None:
        order = item if isinstance(item, _Order) else None
        if item is not None and order is None:
            self._append(self.log, item)
        self.log.sync(now=order is not None)
        if self.log.is_due or (order is not None and order.what != "flush"):
            self.log.cut()
