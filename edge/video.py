"""One camera's H.264 encoder in the process: closed GOPs, no B-frames, one packet out for every picture in."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from edge.errors import EncodeError
from edge.segment import SegmentFacts, digest_file

Color = Literal["rgb", "bgr"]
MAX_GOP_NS = 1_000_000_000
FPS = 30  # of a camera whose rate is not known: the bound of its bit rate is right or, if it is slower, lower


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded picture: an H.264 access unit in Annex B."""

    t_ns: int
    data: bytes
    keyframe: bool


class VideoEncoder:
    """libx264, `zerolatency` (no picture is held back) and `fastdecode` (cheap to read in training).

    `source_size`: (width, height) of the pictures that come, where they are to be scaled to `width` and `height`.
    `fps`: pictures a second, from which x264 takes how many bits of `max_bit_rate` one picture may have.
    """

    def __init__(
        self,
        *,
        width: int,
        height: int,
        gop_frames: int,
        crf: int,
        max_bit_rate: int,
        source_size: tuple[int, int] | None = None,
        fps: float = FPS,
    ) -> None:
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise EncodeError(f"H.264 4:2:0 needs an even width and height, got {width}x{height}")
        self.width, self.height = width, height
        self.source_size = source_size or (width, height)
        self._scaler = VideoReformatter()
        self._gop_frames = gop_frames
        self._since_key: int | None = None
        self._key_ns = 0
        self._pts = 0
        self._codec = _x264(width, height, gop_frames, crf, max_bit_rate, fps)

    def encode(self, t_ns: int, image: NDArray[np.uint8], *, color: Color, keyframe: bool) -> Packet:
        """Encode one (height, width, 3) uint8 picture; a keyframe where asked, due by count, or due by time (1 s)."""
        shape = (self.source_size[1], self.source_size[0], 3)
        if image.shape != shape or image.dtype != np.uint8:
            raise EncodeError(f"picture must be uint8 of shape {shape}, got {image.dtype} of {image.shape}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=f"{color}24")
        frame = self._scaler.reformat(picture, self.width, self.height, "yuv420p", threads=1)
        frame.pts, self._pts = self._pts, self._pts + 1
        frame.pict_type = PictureType.I if keyframe or self.is_keyframe_due(t_ns) else PictureType.NONE
        packets = list(self._codec.encode(frame))
        if len(packets) != 1:
            raise EncodeError(f"the encoder gave {len(packets)} packets for one picture")
        return self._packet(t_ns, packets[0])

    def is_keyframe_due(self, t_ns: int) -> bool:
        """Whether a picture of this time begins a GOP."""
        due_by_count = self._since_key is None or self._since_key + 1 >= self._gop_frames
        return due_by_count or not 0 <= t_ns - self._key_ns < MAX_GOP_NS

    def _packet(self, t_ns: int, packet: Any) -> Packet:
        if packet.is_keyframe:
            self._since_key, self._key_ns = 0, t_ns
        else:
            self._since_key = (self._since_key or 0) + 1
        return Packet(t_ns, bytes(packet), packet.is_keyframe)


def _x264(width: int, height: int, gop_frames: int, crf: int, max_bit_rate: int, fps: float) -> Any:
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base = Fraction(1, 1000)
    codec.framerate = Fraction(fps).limit_denominator(1000)
    codec.gop_size, codec.max_b_frames, codec.thread_count = gop_frames, 0, 1
    codec.options = {
        "preset": "veryfast",
        "tune": "zerolatency,fastdecode",
        "crf": str(crf),
        "maxrate": str(max_bit_rate),
        "bufsize": str(max_bit_rate),
        "forced-idr": "1",
        "x264-params": "scenecut=0:open-gop=0",
    }
    codec.open()
    return codec


def read_mp4(path: Path, *, start_ns: int, topic: str) -> SegmentFacts:
    """Facts of a finished MP4 file as a segment; nothing is decoded. `EncodeError` if it is not one."""
    try:
        with av.open(str(path), format="mp4") as container:
            stream = container.streams.video[0]
            times = [packet.pts * stream.time_base for packet in container.demux(stream) if packet.pts is not None]
    except (av.FFmpegError, IndexError) as error:
        raise EncodeError(f"{path} is not an MP4 file with video: {error}") from error
    if not times:
        raise EncodeError(f"{path} holds no frame")
    length_ns = round((max(times) - min(times)) * 1_000_000_000)
    sha256, size = digest_file(path)
    return SegmentFacts(start_ns, start_ns + length_ns + 1, size, sha256, {topic: len(times)})
