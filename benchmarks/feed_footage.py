"""The footage, encoded once: what a camera recorded, and what it is trained from, picture by picture the same.

original   640×480, H.264 in GOPs of ten, as `align_frames` encodes what it cannot copy
lerobot    640×480, H.264 in GOPs of two, as LeRobot has them; `ultrafast`, which decodes fastest
h264-g2    640×480, our rendition of GOPs of two, by `dataset_catalog.encoding` but for x264's preset: `veryfast`, an
           eighth of the time; at LeRobot's fidelity, and at two thirds of its bytes
jpeg       224×224, quality 90, 4:2:0, from the decoded original

Those at 640×480 are each made of the camera's own pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from typing import Any

import av
import simplejpeg
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from benchmarks import feed_scene
from benchmarks.camera import HEIGHT, WIDTH, Image
from benchmarks.feed_packets import FPS, JPEG, LEROBOT, ORIGINAL, PAIRS, SIZE, Footage
from benchmarks.measure import console
from dataset_catalog.encoding import Encoding

GOP = 10
QUALITY = 90


@dataclass(frozen=True, slots=True)
class Coding:
    """How x264 is told to encode."""

    width: int
    height: int
    gop: int
    crf: int
    preset: str
    tune: str = ""

    def encode(self, frames: Iterable[av.VideoFrame]) -> list[bytes]:
        """One access unit a frame, in Annex B, in order."""
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = self.width, self.height, "yuv420p"
        codec.time_base, codec.framerate = Fraction(1, FPS), Fraction(FPS)
        codec.gop_size, codec.max_b_frames, codec.thread_count = self.gop, 0, 1
        keys = f"keyint={self.gop}:min-keyint={self.gop}:scenecut=0:open-gop=0"
        codec.options = {"preset": self.preset, "crf": str(self.crf), "x264-params": keys}
        if self.tune:
            codec.options = {**codec.options, "tune": self.tune}
        scaler, packets = VideoReformatter(), []
        for number, frame in enumerate(frames):
            one = scaler.reformat(frame, self.width, self.height, "yuv420p", interpolation="AREA", threads=1)
            one.pts, one.pict_type = number, PictureType.NONE
            packets += [bytes(packet) for packet in codec.encode(one)]
        return packets + [bytes(packet) for packet in codec.encode(None)]


CODINGS = {
    ORIGINAL: Coding(WIDTH, HEIGHT, GOP, 21, "veryfast", "fastdecode"),
    LEROBOT: Coding(WIDTH, HEIGHT, 2, 21, "ultrafast"),
}
RENDITION = Encoding("h264-g2", crf=19, preset="veryfast", x264="")


def make(footage: Footage) -> None:
    """Encode what is not there yet, one process a core."""
    missing = [episode for episode in range(footage.episodes) if footage.lacks(episode)]
    if not missing:
        return
    console.print(f"encoding {len(missing) * footage.frames:,} pictures into {footage.folder} …")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(make_one, footage), missing):
            pass


def make_one(footage: Footage, episode: int) -> None:
    """What an episode lacks."""
    lacks = footage.lacks(episode)
    if filmed := [form for form in lacks if form != JPEG]:
        pictures = [feed_scene.picture(episode, number) for number in range(footage.frames)]
        for form in filmed:
            encoded = in_pairs(pictures) if form == PAIRS else CODINGS[form].encode(map(as_frame, pictures))
            footage.keep(form, episode, encoded)
    if JPEG in lacks:
        original = decoded(footage.packets(ORIGINAL, episode))
        footage.keep(JPEG, episode, [as_jpeg(picture) for picture in scaled(original)])


def in_pairs(pictures: Iterable[Image]) -> list[bytes]:
    """As `Dataset.materialize` encodes GOPs of two."""
    encoder, packets = None, []
    for number, picture in enumerate(pictures):
        frame = RENDITION.fitted(as_frame(picture))
        encoder = encoder or RENDITION.h264(frame)
        frame.pts = number
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets + [bytes(packet) for packet in encoder.encode(None)] if encoder else []


def as_frame(picture: Image) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(picture, format="rgb24")


def decoded(packets: Iterable[bytes]) -> Iterator[av.VideoFrame]:
    """Frames of H.264 in Annex B without B-frames, in order."""
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    for data in (*map(av.Packet, packets), None):
        yield from context.decode(data)


def scaled(frames: Iterable[av.VideoFrame], *, width: int = SIZE, height: int = SIZE) -> Iterator[Image]:
    """RGB at this size, by area, in one pass of FFmpeg's scaler: what everything at 224×224 is compared with."""
    scaler = VideoReformatter()
    for frame in frames:
        rgb: Any = scaler.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1).to_ndarray()
        yield rgb


def as_jpeg(picture: Image) -> bytes:
    return bytes(simplejpeg.encode_jpeg(picture, quality=QUALITY, colorspace="RGB", colorsubsampling="420"))
