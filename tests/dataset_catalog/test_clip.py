"""A clip holds the very frames that were recorded, at their times, and says what it does not hold."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_catalog import Catalog
from dataset_catalog.cut import cut
from dataset_catalog.errors import (
    ClipTooLong,
    CodecChanged,
    DamagedSegment,
    NotFound,
    Overlapping,
    QueryError,
)
from dataset_catalog.raw_video import read_raw
from dataset_catalog.storage import Storage
from edge.video import Packet
from edge.wire import MCAP_TYPE, MP4_TYPE
from ray_jobs.media import read_track
from tests.dataset_catalog.filmed import (
    FRAME_NS,
    MS,
    OTHER_RECORDING,
    T0,
    Filmed,
    as_mcap,
    assert_same_pictures,
    decode_file,
    decode_packets,
    gray_packets,
    hevc_packets,
    make_mp4,
)

S = 1_000_000_000


@pytest.fixture
def filmed(tmp_path: Path) -> Filmed:
    return Filmed(Storage.open(str(tmp_path / "lake")))


@pytest.fixture
def three_segments(filmed: Filmed) -> tuple[Catalog, list[Any]]:
    """75 frames in segments of 25, without a break."""
    parts = [gray_packets(T0 + n * 25 * FRAME_NS, 25) for n in range(3)]
    for seq, packets in enumerate(parts):
        filmed.film(packets, seq=seq)
    return Catalog(filmed.publish()), [packet for packets in parts for packet in packets]


def test_a_clip_is_frame_for_frame_what_was_recorded(three_segments: tuple[Catalog, list[Any]]) -> None:
    catalog, packets = three_segments
    clip = catalog.clip("h1", "head", T0, T0 + 10 * S)
    assert (clip.start_ns, clip.missing) == (packets[0].t_ns, ())
    assert_same_pictures(decode_file(clip.to_bytes(), start_ns=clip.start_ns), decode_packets(packets))


def test_a_clip_begins_with_the_gop_that_holds_its_start_and_loses_no_frame_of_the_range(
    three_segments: tuple[Catalog, list[Any]],
) -> None:
    catalog, packets = three_segments
    start_ns, end_ns = packets[17].t_ns, packets[41].t_ns + 1
    clip = catalog.clip("h1", "head", start_ns, end_ns)
    expected = packets[10:45]  # GOPs of 10, 10 and 5 a segment
    assert (clip.start_ns, clip.end_ns, clip.cut.frames) == (packets[10].t_ns, packets[45].t_ns, 35)
    assert_same_pictures(decode_file(clip.to_bytes(), start_ns=clip.start_ns), decode_packets(expected))


def test_frames_come_with_their_exact_times_and_in_any_size(three_segments: tuple[Catalog, list[Any]]) -> None:
    catalog, packets = three_segments
    clip = catalog.clip("h1", "head", packets[20].t_ns, packets[30].t_ns)
    frames = list(clip.frames())
    assert [t_ns for t_ns, _ in frames] == [packet.t_ns for packet in packets[20:35]]
    assert [picture.shape for _, picture in clip.frames((24, 32))] == [(24, 32, 3)] * 15
    assert abs(frames[3][1].mean() - decode_packets(packets[20:35])[3][1].mean()) < 2


def test_every_frame_lasts_until_the_next(three_segments: tuple[Catalog, list[Any]], tmp_path: Path) -> None:
    catalog, _ = three_segments
    with (tmp_path / "clip.mp4").open("wb") as file:
        catalog.clip("h1", "head", T0, T0 + 10 * S).write(file)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        found = [packet for packet in container.demux(stream) if packet.size]
        assert stream.time_base.denominator == 1_000_000
        assert [packet.is_keyframe for packet in found] == [n % 25 in (0, 10, 20) for n in range(75)]
    for one, two in pairwise(found):
        assert abs(one.pts + one.duration - two.pts) <= 1


@pytest.mark.parametrize("bframes", [0, 2])
def test_an_mp4_keeps_its_packets_and_times_in_whatever_order_it_is_coded(filmed: Filmed, bframes: int) -> None:
    bodies = [make_mp4(bframes=bframes, first=40), make_mp4(bframes=bframes, first=80)]
    for seq, body in enumerate(bodies):
        filmed.film_mp4(body, seq=seq, start_ns=T0 + seq * S)
    clip = Catalog(filmed.publish()).clip("h1", "head", T0, T0 + 10 * S)
    source = [one for n, body in enumerate(bodies) for one in decode_file(body, start_ns=T0 + n * S)]
    found = decode_file(clip.to_bytes(), start_ns=clip.start_ns)
    assert_same_pictures(found, source)
    assert [t_ns for t_ns, _ in clip.frames()] == [t_ns for t_ns, _ in source]


def test_hevc_in_annex_b_becomes_an_mp4_too(filmed: Filmed) -> None:
    packets = hevc_packets(T0, 25)
    filmed.film(packets, seq=0, codec="h265")
    clip = Catalog(filmed.publish()).clip("h1", "head", T0, T0 + S)
    assert_same_pictures(decode_file(clip.to_bytes(), start_ns=T0), decode_packets(packets[:20], codec="hevc"))


@pytest.mark.parametrize("episodes", [(1, 2)])
def test_real_robot_video_is_cut_frame_for_frame(filmed: Filmed, real_data: Path, episodes: tuple[int, ...]) -> None:
    folder = real_data / "g1/videos/chunk-000/observation.images.cam_high"
    bodies = [(folder / f"episode_{n:06d}.mp4").read_bytes() for n in episodes]
    for seq, body in enumerate(bodies):
        filmed.film_mp4(body, seq=seq, start_ns=T0 + seq * 20 * S)
    clip = Catalog(filmed.publish()).clip("h1", "head", T0 + 10 * S, T0 + 22 * S)
    source = [one for n, body in enumerate(bodies) for one in decode_file(body, start_ns=T0 + n * 20 * S)]
    first = max(n for n in range(0, len(source), 2) if source[n][0] <= T0 + 10 * S)  # a keyframe every two frames
    expected = [one for one in source[first:] if one[0] < T0 + 22 * S]
    found = decode_file(clip.to_bytes(), start_ns=clip.start_ns)
    assert clip.start_ns == source[first][0]
    assert_same_pictures(found, expected + source[first + len(expected) :][: len(found) - len(expected)])
    assert len(found) - len(expected) in (0, 1)


def test_a_hole_between_segments_stays_a_hole_in_time(filmed: Filmed) -> None:
    early, late = gray_packets(T0, 10), gray_packets(T0 + 7 * S, 10)
    filmed.film(early, seq=0)
    filmed.film(late, seq=2)
    clip = Catalog(filmed.publish()).clip("h1", "head", T0, T0 + 10 * S)
    found = decode_file(clip.to_bytes(), start_ns=clip.start_ns)
    assert_same_pictures(found, [*decode_packets(early), *decode_packets(late)])
    with av.open(io.BytesIO(clip.to_bytes())) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert packets[9].duration < 60_000  # the last picture before the hole is not shown all through it


def test_gaps_and_quarantined_segments_are_left_out_and_told(filmed: Filmed) -> None:
    parts = [gray_packets(T0 + n * S, 20) for n in range(5)]
    filmed.film(parts[0], seq=0)
    filmed.gap(1, start_ns=T0 + S, end_ns=T0 + 2 * S)
    lost = [packet for n, packet in enumerate(parts[2]) if n != 5]
    row = filmed.add(as_mcap(lost), seq=3, start_ns=T0 + 2 * S, end_ns=T0 + 3 * S)
    assert row["state"] == "quarantined"
    filmed.film(parts[3], seq=4)
    catalog = Catalog(filmed.publish())
    clip = catalog.clip("h1", "head", T0, T0 + int(2.5 * S))
    assert [(one.start_ns - T0, one.end_ns - T0, one.state) for one in clip.missing] == [
        (S, 2 * S, "gap"),
        (2 * S, int(2.5 * S), "quarantined"),
    ]
    assert clip.cut.frames == 20
    with pytest.raises(NotFound, match="no video"):
        catalog.clip("h1", "head", T0 + S + 1, T0 + 3 * S)


@pytest.mark.parametrize("change", ["size", "profile", "container"])
def test_a_change_of_the_encoding_ends_a_clip_with_its_time(filmed: Filmed, change: str) -> None:
    filmed.film(gray_packets(T0, 20), seq=0)
    if change == "size":
        filmed.film(gray_packets(T0 + S, 20, size=(96, 64)), seq=1)
    elif change == "profile":
        body = make_mp4()  # by another encoder: other parameter sets
        raw = read_raw(body, codec="h264", content_type=MP4_TYPE, start_ns=T0 + S)
        filmed.film(_annex_b(raw), seq=1)
    else:
        filmed.film_mp4(make_mp4(), seq=1, start_ns=T0 + S)
    catalog = Catalog(filmed.publish())
    with pytest.raises(CodecChanged) as raised:
        catalog.clip("h1", "head", T0, T0 + 2 * S).to_bytes()
    changed_at_ns = raised.value.changed_at_ns
    assert T0 + S <= changed_at_ns < T0 + S + 3 * MS
    before = catalog.clip("h1", "head", T0, changed_at_ns)
    after = catalog.clip("h1", "head", changed_at_ns, T0 + 2 * S)
    assert len(decode_file(before.to_bytes())) == 20
    assert len(decode_file(after.to_bytes())) == (20 if change == "size" else 25)


def _annex_b(raw: Any) -> list[Any]:
    """An mp4's H.264 as a byte stream, by libav."""
    sets = raw.extradata
    sps_at, sps_size = 8, int.from_bytes(sets[6:8])
    pps_at = sps_at + sps_size + 3
    pps_size = int.from_bytes(sets[pps_at - 2 : pps_at])
    head = b"\0\0\0\1" + sets[sps_at : sps_at + sps_size] + b"\0\0\0\1" + sets[pps_at : pps_at + pps_size]
    found = []
    for n, packet in enumerate(raw.packets):
        at, units = 0, []
        while at < len(packet.data):
            size = int.from_bytes(packet.data[at : at + 4])
            units.append(b"\0\0\0\1" + packet.data[at + 4 : at + 4 + size])
            at += 4 + size
        found.append(Packet(packet.t_ns, (head if n % 10 == 0 else b"") + b"".join(units), n % 10 == 0))
    return found


def test_two_recordings_of_one_time_must_be_told_apart(filmed: Filmed) -> None:
    one, other = gray_packets(T0, 20), gray_packets(T0 + 500 * MS, 20, crf=21)
    filmed.film(one, seq=0)
    filmed.film(other, seq=0, recording=OTHER_RECORDING)
    catalog = Catalog(filmed.publish())
    with pytest.raises(Overlapping, match="name the recording"):
        catalog.clip("h1", "head", T0, T0 + 2 * S)
    clip = catalog.clip("h1", "head", T0, T0 + 2 * S, recording=OTHER_RECORDING)
    assert_same_pictures(decode_file(clip.to_bytes(), start_ns=clip.start_ns), decode_packets(other))


def test_the_same_cut_gives_the_same_bytes_in_another_process(
    three_segments: tuple[Catalog, list[Any]], tmp_path: Path
) -> None:
    catalog, _ = three_segments
    here = catalog.clip("h1", "head", T0, T0 + 2 * S)
    out, words = tmp_path / "there.mp4", ["clip", "h1", "head", str(T0), "2026-01-01T00:00:02Z", "--out"]
    command = [sys.executable, "-m", "dataset_catalog", *words, str(out), "--lake", catalog.storage.url]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "45 frames from 2026-01-01T00:00:00" in told
    assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(here.to_bytes()).digest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake", "there.mp4"]


def test_the_digest_names_the_bytes_before_they_are_made(three_segments: tuple[Catalog, list[Any]]) -> None:
    catalog, packets = three_segments
    asked = [(packets[0].t_ns, packets[9].t_ns), (packets[3].t_ns, packets[9].t_ns + 1), (T0, packets[11].t_ns)]
    clips = [catalog.clip("h1", "head", start, end) for start, end in asked]
    digests, bodies = [one.digest for one in clips], [one.to_bytes() for one in clips]
    assert (digests[0] == digests[1], digests[0] == digests[2]) == (True, False)
    assert (bodies[0] == bodies[1], bodies[0] == bodies[2]) == (True, False)


def test_flipped_bits_in_the_store_are_noticed(filmed: Filmed) -> None:
    body = as_mcap(gray_packets(T0, 20))
    filmed.add(body, seq=0, stored=body[:500] + bytes([body[500] ^ 1]) + body[501:])
    row = filmed.film(gray_packets(T0 + S, 20), seq=1)
    storage = filmed.publish()
    storage.filesystem().rm(storage.path(row["key"]))
    with pytest.raises(DamagedSegment, match="sha-256"):
        Catalog(storage).clip("h1", "head", T0, T0 + S).to_bytes()
    with pytest.raises(DamagedSegment, match="not stored any more"):
        Catalog(storage).clip("h1", "head", T0 + S, T0 + 2 * S).to_bytes()


def test_what_cannot_be_a_clip_is_said_in_words(three_segments: tuple[Catalog, list[Any]], empty: Catalog) -> None:
    catalog, _ = three_segments
    with pytest.raises(ClipTooLong, match="at most 600 s, got 601 s"):
        catalog.clip("h1", "head", T0, T0 + 601 * S)
    with pytest.raises(QueryError, match="later than start"):
        catalog.clip("h1", "head", T0, T0)
    with pytest.raises(NotFound, match="its video streams are head"):
        catalog.clip("h1", "tail", T0, T0 + S)
    with pytest.raises(NotFound, match="holds no video of this robot"):
        catalog.clip("h1' OR 'a' = 'a", "head", T0, T0 + S)
    with pytest.raises(NotFound, match="run the job index_segments"):
        empty.clip("h1", "head", T0, T0 + S)


@pytest.mark.parametrize("bframes", [0, 2])
def test_the_catalog_and_the_index_read_the_same_packets(bframes: int) -> None:
    bodies = {MP4_TYPE: make_mp4(bframes=bframes), MCAP_TYPE: as_mcap(gray_packets(T0, 25))}
    for content_type, body in bodies.items():
        raw = read_raw(body, codec="h264", content_type=content_type, start_ns=T0)
        track = read_track(body, content_type=content_type, start_ns=T0)
        assert [(one.t_ns, one.data) for one in raw.packets] == [(one.t_ns, one.data) for one in track.packets]
        assert (raw.codec, raw.extradata) == (track.codec, track.extradata)


starts = st.lists(st.integers(0, 200), min_size=1, max_size=12, unique=True).map(sorted)


@given(begins=starts, tail=st.integers(1, 20), start=st.integers(0, 230), length=st.integers(1, 100))
def test_a_cut_takes_just_the_gops_that_touch_the_range(begins: list[int], tail: int, start: int, length: int) -> None:
    gops = [{"start_ns": begin, "frames": 1, "bytes": 1} for begin in begins]
    ends = [*begins[1:], begins[-1] + tail]
    row = dict.fromkeys(("recording_id", "reason", "key", "sha256", "content_type", "codec"), "x")
    row |= {"seq": 0, "state": "ok", "bytes": 1, "start_ns": begins[0], "end_ns": ends[-1], "width": 2, "height": 2}
    wanted = [n for n, (a, b) in enumerate(zip(begins, ends, strict=True)) if b > start and a < start + length]
    if wanted:
        piece = cut([row | {"fps": None, "gops": gops}], start_ns=start, end_ns=start + length).pieces[0]
        assert list(range(piece.first, piece.stop)) == wanted
    else:
        with pytest.raises(NotFound):
            cut([row | {"fps": None, "gops": gops}], start_ns=start, end_ns=start + length)
