"""What the robot's program calls: `log`, `image`, `text`, `episode`. Nothing here waits for a disk or an encoder."""

from __future__ import annotations

import operator
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np
from google.protobuf.message import Message as ProtobufMessage
from numpy.typing import NDArray
from ulid import ULID

from edge import topics
from edge.errors import RecorderClosed, SpoolError
from edge.recording import write_closing, write_opening
from edge.recovery import recover
from edge.segment import Topic
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.stream_log import StreamLog
from edge.video import Color, read_mp4
from edge.wire import MAX_TIME_NS, MP4_TYPE, Kind, check_stream
from edge.writer import Append, CameraAppender, Picture, StreamWriter, append_message

RESERVED = (topics.TELEMETRY_STREAM, topics.AGENT_STREAM)


@dataclass(slots=True)
class Episode:
    """The label of a stretch of time; set `success` and `notes` before it ends."""

    episode_id: str
    task: str
    success: bool | None = None
    notes: str | None = None


class Recorder:
    """One recording of one robot, kept under `folder` until the agent has delivered it.

    A reading is durable `settings.sync_s` after the call at the latest, with `flush()` at once. When the robot cannot
    keep up, the call drops the reading, counts it in `dropped`, and the closing record tells the server; with
    `wait_for_room`, which a replay wants and a control loop does not, the call waits instead.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        software_version: str = "",
        settings: EdgeSettings | None = None,
        clock: Callable[[], int] = time.time_ns,
        wait_for_room: bool = False,
    ) -> None:
        self.settings = settings or EdgeSettings()
        self.spool = Spool(Path(folder) if folder is not None else self.settings.folder)
        recover(self.spool)
        self.recording_id = str(ULID())
        self._clock, self._wait_for_room = clock, wait_for_room
        self._lock = self.spool.lock_recording(self.recording_id)
        self._closed = False
        self._adding = threading.Lock()
        self._cameras: dict[str, StreamWriter] = {}
        self._files: dict[str, int] = {}
        write_opening(self.spool, self.recording_id, clock(), software_version=software_version)
        self._telemetry = self._writer(
            topics.TELEMETRY_STREAM, "telemetry", append_message, queue_size=self.settings.queue_messages
        )

    def log(self, topic: str, t_ns: int, message: Mapping[str, Any] | ProtobufMessage) -> None:
        """Record one message of a topic at its capture time `t_ns` (ns since the Unix epoch).

        A mapping is kept as JSON (numpy arrays as lists, NaN as null), a protobuf message as it is.
        """
        self._check_open()
        described, data = topics.encode(topic, message)
        self._telemetry.put((described, _checked_time(t_ns), data))

    def image(self, stream: str, t_ns: int, image: NDArray[np.uint8], *, color: Color = "rgb") -> None:
        """Record one picture, uint8 of shape (height, width, 3), even sizes; it is encoded off this thread.

        The array is not copied: hand over a fresh one each time.
        """
        self._check_open()
        picture = Picture(_checked_time(t_ns), _checked(stream, image), _checked_color(color))
        camera = self._cameras.get(stream) or self._add_camera(stream)
        camera.put(picture)

    def text(self, level: str, message: str, *, t_ns: int | None = None) -> None:
        """Record a log line on `/log`; `level` is debug, info, warning, error or fatal."""
        if level not in topics.LEVELS:
            raise ValueError(f"level must be one of {', '.join(topics.LEVELS)}, got {level!r}")
        line = {"level": topics.LEVELS[level], "message": message, "name": ""}
        self._put(topics.LOG, self._clock() if t_ns is None else t_ns, line)

    def video_file(self, stream: str, start_ns: int, path: Path) -> None:
        """Record a finished MP4 file as the next segment of a stream, as it is. `start_ns`: time of its first frame.

        A stream takes either files or pictures (`image`), never both.
        """
        self._check_open()
        if stream in (*self._cameras, *RESERVED):
            raise ValueError(f"stream {stream!r} takes no video files")
        facts = read_mp4(path, start_ns=_checked_time(start_ns), topic=f"/{check_stream(stream)}")
        seq = self.spool.last_seqs(self.recording_id).get(stream, -1) + 1
        name = (self.recording_id, stream, seq)
        self.spool.add(name, facts, path.read_bytes(), kind="video", content_type=MP4_TYPE)
        topic = f"/{stream}"
        self._files[topic] = self._files.get(topic, 0) + facts.counts[topic]

    @contextmanager
    def episode(self, *, task: str) -> Iterator[Episode]:
        """Label what is recorded inside the `with` block. An exception inside marks it `success=False`."""
        label = Episode(str(ULID()), task)
        self._put_label(label, "start")
        try:
            yield label
        except BaseException:
            label.success = False
            raise
        finally:
            self._put_label(label, "end")

    def flush(self) -> None:
        """Return when everything recorded so far is durable on this robot's disk."""
        for writer in self._writers():
            writer.flush()

    def cut(self) -> None:
        """Seal every open segment now, so that the agent can upload it."""
        for writer in self._writers():
            writer.cut()

    def close(self) -> None:
        """Seal everything and write the closing record. The recorder cannot be used afterwards.

        `SpoolError` where a stream cannot be sealed: the others are, and the next start of a recorder or agent recovers
        what is left.
        """
        if self._closed:
            return
        self._closed = True
        failed = [error for writer in self._writers() if (error := _close(writer))]
        if failed:
            if all(writer.has_ended for writer in self._writers()):
                os.close(self._lock)
            raise failed[0]
        write_closing(self.spool, self.recording_id, self._clock(), dropped=self.dropped, recovered=False)
        self.spool.release_recording(self.recording_id, self._lock)

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far, by topic; a camera's topic is `/<stream>`."""
        written = {topic: n for writer in self._writers() for topic, n in writer.log.counts.copy().items()}
        return {**written, **self._files}

    @property
    def dropped(self) -> dict[str, int]:
        """Readings let go because the robot could not keep up, by stream."""
        return {writer.log.stream: writer.dropped for writer in self._writers() if writer.dropped}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _put_label(self, label: Episode, event: str) -> None:
        fields = {name: getattr(label, name) for name in ("episode_id", "task", "success", "notes")}
        self._put(topics.EPISODE, self._clock(), {**fields, "event": event})

    def _put(self, topic: Topic, t_ns: int, message: Mapping[str, Any]) -> None:
        self._check_open()
        self._telemetry.put((topic, _checked_time(t_ns), topics.encode_json(message)))

    def _add_camera(self, stream: str) -> StreamWriter:
        if check_stream(stream) in RESERVED or f"/{stream}" in self._files:
            raise ValueError(f"stream {stream!r} takes no pictures")
        with self._adding:
            if stream not in self._cameras:
                appender = CameraAppender(stream, self.settings)
                self._cameras[stream] = self._writer(stream, "video", appender, queue_size=self.settings.queue_frames)
        return self._cameras[stream]

    def _writer(self, stream: str, kind: Kind, append: Append, *, queue_size: int) -> StreamWriter:
        log = StreamLog(self.spool, self.recording_id, stream, kind=kind, settings=self.settings)
        return StreamWriter(
            log,
            append,
            queue_size=queue_size,
            poll_s=self.settings.sync_s / 2,
            wait_for_room=self._wait_for_room,
        )

    def _writers(self) -> list[StreamWriter]:
        return [*self._cameras.values(), self._telemetry]

    def _check_open(self) -> None:
        if self._closed:
            raise RecorderClosed(f"recording {self.recording_id} is closed; make a new Recorder")


def _close(writer: StreamWriter) -> SpoolError | None:
    try:
        writer.close()
    except SpoolError as error:
        return error
    return None


def _checked_time(t_ns: int) -> int:
    """A float would lose hundreds of nanoseconds, and what MCAP cannot hold would end the writing of the stream."""
    try:
        time_ns = operator.index(t_ns)
    except TypeError as error:
        raise TypeError(f"a time must be whole nanoseconds since the Unix epoch, got {t_ns!r}") from error
    if not 0 <= time_ns < MAX_TIME_NS:
        raise ValueError(f"a time must be within 0..{MAX_TIME_NS - 1} ns since the Unix epoch, got {time_ns}")
    return time_ns


def _checked_color(color: Color) -> Color:
    if color not in get_args(Color):
        raise ValueError(f"color must be one of {', '.join(get_args(Color))}, got {color!r}")
    return color


def _checked(stream: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    is_picture = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
    if not is_picture or image.shape[0] % 2 or image.shape[1] % 2:
        raise ValueError(
            f"a picture of {stream} must be uint8 of shape (even height, even width, 3), "
            f"got {image.dtype} of {image.shape}"
        )
    return image
