"""What the robot's program calls: `log`, `image`, `text`, `episode`. Nothing here waits for a disk or an encoder."""

from __future__ import annotations

import operator
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np
from google.protobuf.message import Message as ProtobufMessage
from numpy.typing import NDArray
from ulid import ULID

from edge import topics
from edge.clock import SteadyClock
from edge.errors import RecorderClosed, SpoolError
from edge.recorder_watch import Watch
from edge.recording import Words, opening
from edge.records import Topic
from edge.recovery import recover_recordings
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.stream_log import Alarm, StreamLog, log_alarm
from edge.video import Color, read_mp4
from edge.wire import MAX_TIME_NS, MP4_TYPE, Kind, check_stream
from edge.writer import Append, CameraAppender, Picture, StreamWriter, append_message

RESERVED = (topics.TELEMETRY_STREAM, topics.EVENTS_STREAM, topics.AGENT_STREAM)
PREVIEW = "_preview"
MAX_ALARMS = 100
POLL_S = 0.1
CAMERA_POLL_S = 0.05
CLAIM_S = 2.0  # an agent that looks at a new recording is done with it much sooner


@dataclass(slots=True)
class Episode:
    """The label of a stretch of time; set `success` and `notes` before it ends."""

    episode_id: str
    task: str
    success: bool | None = None
    notes: str | None = None


class Recorder:
    """One recording of one robot, kept under `folder` until the agent has delivered it.

    A reading is durable within 1 s of the call (`settings.sync_s` and the time of one sync), with `flush()` at once.
    When the robot cannot keep up, or its disk takes nothing for longer than memory can hold, the reading is dropped and
    counted in `dropped`; `/recording/dropped` and the closing record tell the server. With `wait_for_room`, which a
    replay wants and a control loop does not, the call waits instead. `on_alarm` hears of a failing disk, in words.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        software_version: str = "",
        calibration: Mapping[str, Any] | None = None,
        settings: EdgeSettings | None = None,
        clock: Callable[[], int] = time.time_ns,
        wait_for_room: bool = False,
        on_alarm: Alarm = log_alarm,
        spool: Spool | None = None,
    ) -> None:
        self.settings = settings or EdgeSettings()
        self.spool = spool or Spool(Path(folder) if folder is not None else self.settings.folder)
        recover_recordings(self.spool)
        self.recording_id = str(ULID())
        self.alarms: deque[str] = deque(maxlen=MAX_ALARMS)
        self._clock, self._wait_for_room, self._on_alarm = clock, wait_for_room, on_alarm
        self._steady_ns = SteadyClock(wall=clock).steady_ns
        self._lock = _locked(self.spool, self.recording_id)
        self._closed = False
        self._adding = threading.Lock()
        self._cameras: dict[str, StreamWriter] = {}
        self._appenders: dict[str, CameraAppender] = {}
        self._previews: dict[str, StreamWriter] = {}  # by camera
        self._preview_due_ns: dict[str, int] = {}
        self._files: dict[str, _Files] = {}
        self._words = Words(self.spool, self.recording_id)
        opened = opening(software_version=software_version, calibration=calibration, wall=self._steady_ns)
        self._words.open(clock(), opened)
        size = self.settings.queue_messages
        self._telemetry = self._writer(topics.TELEMETRY_STREAM, "telemetry", append_message, queue_size=size)
        self._events = self._writer(topics.EVENTS_STREAM, "telemetry", append_message, queue_size=size)
        self._watch = Watch(self, self._words, say=self._say, clock=clock)

    def log(self, topic: str, t_ns: int, message: Mapping[str, Any] | ProtobufMessage) -> None:
        """Record one message of a topic at its capture time `t_ns` (ns since the Unix epoch).

        A mapping is kept as JSON (numpy arrays as lists, NaN as null), a protobuf message as it is.
        """
        if self._closed:
            self._refuse()
        described, data = topics.encode(topic, message)
        self._telemetry.put((_checked_time(t_ns), described, self._steady_ns(), data))

    def image(self, stream: str, t_ns: int, image: NDArray[np.uint8], *, color: Color = "rgb") -> None:
        """Record one picture, uint8 of shape (height, width, 3), even sizes; it is encoded off this thread.

        The array is not copied: hand over a fresh one each time.
        """
        if self._closed:
            self._refuse()
        picture = Picture(_checked_time(t_ns), self._steady_ns(), _checked(stream, image), _checked_color(color))
        camera = self._cameras.get(stream) or self._add_camera(stream)
        camera.put(picture)
        if self.settings.preview_fps:
            self._preview(stream, picture)

    def text(self, level: str, message: str, *, t_ns: int | None = None) -> None:
        """Record a log line on `/log`; `level` is debug, info, warning, error or fatal."""
        if level not in topics.LEVELS:
            raise ValueError(f"level must be one of {', '.join(topics.LEVELS)}, got {level!r}")
        line = {"level": topics.LEVELS[level], "message": message, "name": ""}
        self._event(topics.LOG, self._clock() if t_ns is None else t_ns, line)

    def video_file(self, stream: str, start_ns: int, path: Path) -> None:
        """Record a finished MP4 file as the next segment of a stream, as it is. `start_ns`: time of its first frame.

        A stream takes either files or pictures (`image`), never both. `SpoolError` where the disk does not take it: the
        caller still has the file.
        """
        if self._closed:
            self._refuse()
        if stream in (*self._cameras, *RESERVED) or self._is_preview(stream):
            raise ValueError(f"stream {stream!r} takes no video files")
        facts = read_mp4(path, start_ns=_checked_time(start_ns), topic=f"/{check_stream(stream)}")
        files = self._files.setdefault(stream, _Files())
        with files.adding:
            name = (self.recording_id, stream, files.last_seq + 1)
            try:
                self.spool.add(name, facts, path.read_bytes(), kind="video", content_type=MP4_TYPE)
            except OSError as error:
                raise SpoolError(f"{path} is not recorded: {error.strerror or error}") from error
            files.last_seq, files.frames = files.last_seq + 1, files.frames + facts.counts[f"/{stream}"]

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
        """Return when everything recorded so far is durable on this robot's disk; `SpoolError` where it is not."""
        if self._closed:
            self._refuse()
        self._each(StreamWriter.flush)

    def cut(self) -> None:
        """Seal every open segment now, so that the agent can upload it."""
        if self._closed:
            self._refuse()
        self._each(StreamWriter.cut)

    def close(self) -> None:
        """Seal everything and write the closing record. The recorder cannot be used afterwards.

        `SpoolError` where a stream cannot be sealed: the others are, and the next start of a recorder or agent recovers
        what is left.
        """
        with self._adding:  # no stream begins from now on
            if self._closed:
                return
            self._closed = True
        self._watch.stop()
        try:
            self._each(self._close_writer)
            self._words.close(self._clock(), last_seq=self.last_seqs, dropped=self.dropped)
        except SpoolError:
            if all(writer.has_ended for writer in self._writers()):
                os.close(self._lock)
            raise
        self.spool.release_recording(self.recording_id, self._lock)

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far, by topic; a camera's topic is `/<stream>`."""
        written = {topic: n for writer in self._writers() for topic, n in writer.log.counts.copy().items()}
        return {**written, **{f"/{stream}": files.frames for stream, files in self._files.copy().items()}}

    @property
    def recorded(self) -> dict[str, int]:
        """Messages written so far, by stream."""
        written = {writer.log.stream: sum(writer.log.counts.copy().values()) for writer in self._writers()}
        return {**written, **{stream: files.frames for stream, files in self._files.copy().items()}}

    @property
    def dropped(self) -> dict[str, int]:
        """Readings let go because the robot could not keep up, or its disk took nothing, by stream."""
        return {writer.log.stream: writer.dropped for writer in self._writers() if writer.dropped}

    @property
    def last_seqs(self) -> dict[str, int]:
        """The highest sealed seq of each stream that has one."""
        sealed = {writer.log.stream: writer.log.last_sealed for writer in self._writers()}
        sealed |= {stream: files.last_seq for stream, files in self._files.copy().items()}
        return {stream: seq for stream, seq in sealed.items() if seq >= 0}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def take_drops(self) -> list[dict[str, Any]]:
        """What was let go since the last call, as messages of `/recording/dropped`."""
        drops = [drop for writer in self._writers() for drop in writer.take_drops()]
        return [{name: getattr(drop, name) for name in drop.__slots__} for drop in drops]

    def alarm(self, text: str) -> None:
        """Keep an alarm, and tell it to whoever asked for them."""
        self.alarms.append(text)
        try:
            self._on_alarm(text)
        except BaseException as error:  # noqa: BLE001 - the robot's program failed, the writing must not
            log_alarm(f"on_alarm failed: {type(error).__name__}: {error}")

    def _put_label(self, label: Episode, event: str) -> None:
        fields = {name: getattr(label, name) for name in ("episode_id", "task", "success", "notes")}
        self._event(topics.EPISODE, self._clock(), {**fields, "event": event})

    def _event(self, topic: Topic, t_ns: int, message: Mapping[str, Any]) -> None:
        if self._closed:
            self._refuse()
        self._say(topic, _checked_time(t_ns), message)

    def _say(self, topic: Topic, t_ns: int, message: Mapping[str, Any]) -> None:
        self._events.put((t_ns, topic, self._steady_ns(), topics.encode_json(message)))

    def _preview(self, stream: str, picture: Picture) -> None:
        """Record a picture small as well, `preview_fps` times a second at most."""
        due_ns = self._preview_due_ns.get(stream, 0)
        period_ns = round(1e9 / self.settings.preview_fps)
        if due_ns - period_ns <= picture.t_ns < due_ns:
            return
        on_time = due_ns <= picture.t_ns < due_ns + period_ns  # else the beginning, or the clock has jumped
        self._preview_due_ns[stream] = (due_ns if on_time else picture.t_ns) + period_ns
        preview = self._previews.get(stream) or self._add_preview(stream)
        preview.put(picture)

    def _is_preview(self, stream: str) -> bool:
        return bool(self.settings.preview_fps) and stream.endswith(PREVIEW)

    def _add_camera(self, stream: str) -> StreamWriter:
        if check_stream(stream) in RESERVED or stream in self._files or self._is_preview(stream):
            raise ValueError(f"stream {stream!r} takes no pictures")
        if self.settings.preview_fps:
            check_stream(stream + PREVIEW)
        with self._adding:
            if self._closed:
                self._refuse()
            if stream not in self._cameras:
                self._appenders[stream] = CameraAppender(stream, self.settings)
                self._cameras[stream] = self._video_writer(self._appenders[stream])
        return self._cameras[stream]

    def _add_preview(self, camera: str) -> StreamWriter:
        with self._adding:
            if self._closed:
                self._refuse()
            if camera not in self._previews:
                appender = CameraAppender(camera + PREVIEW, self.settings, preview_of=self._appenders[camera])
                self._previews[camera] = self._video_writer(appender)
        return self._previews[camera]

    def _video_writer(self, appender: CameraAppender) -> StreamWriter:
        return self._writer(appender.stream, "video", appender, queue_size=self.settings.queue_frames)

    def _writer(self, stream: str, kind: Kind, append: Append, *, queue_size: int) -> StreamWriter:
        alarm = self.alarm
        log = StreamLog(self.spool, self.recording_id, stream, kind=kind, settings=self.settings, alarm=alarm)
        poll_s = min(self.settings.sync_s / 2, CAMERA_POLL_S if kind == "video" else POLL_S)
        return StreamWriter(
            log, append, queue_size=queue_size, poll_s=poll_s, wait_for_room=self._wait_for_room, alarm=alarm
        )

    def _writers(self) -> list[StreamWriter]:
        """That of each stream; the events come last."""
        return [*list(self._cameras.values()), *list(self._previews.values()), self._telemetry, self._events]

    def _each(self, act: Callable[[StreamWriter], None]) -> None:
        """Do a thing with every stream; the first failure is raised when all have been tried."""
        failed = [error for writer in self._writers() if (error := _tried(act, writer))]
        if failed:
            raise failed[0]

    def _close_writer(self, writer: StreamWriter) -> None:
        if writer is self._events:  # the last: what the others let go is told first
            self._watch.tell_drops()
        writer.close()

    def _refuse(self) -> None:
        raise RecorderClosed(f"recording {self.recording_id} is closed; make a new Recorder")


@dataclass(slots=True)
class _Files:
    """A stream of video files: how far it has come, and how many frames they hold."""

    last_seq: int = -1
    frames: int = 0
    adding: threading.Lock = field(default_factory=threading.Lock)


def _locked(spool: Spool, recording: str) -> int:
    """The lock of a new recording; `SpoolError` where the disk takes not even that."""
    try:
        return spool.lock_recording(recording, wait_s=CLAIM_S)
    except OSError as error:
        raise SpoolError(f"{spool.folder} takes no recording: {error.strerror or error}") from error


def _tried(act: Callable[[StreamWriter], None], writer: StreamWriter) -> SpoolError | None:
    try:
        act(writer)
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
