"""Frames by GOP: the same pixels however they are come by, each GOP fetched and decoded only as far as it is needed."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dataset_catalog import decoders
from dataset_catalog.episodes import Episode, EpisodeReader, Gop
from dataset_catalog.errors import DecodeError, WindowError
from dataset_catalog.frames import Frame, FrameReader, Places, _Kept
from dataset_catalog.gop_bytes import GopBytes, Range
from dataset_catalog.video import decode_with


def episode(lake: Any, name: str, rendition: str = "original") -> Episode:
    dataset = lake.catalog.dataset("pick")
    reader = EpisodeReader(dataset, columns={}, cameras={"head": [rendition]}, max_bytes=2**30)
    return reader.get([name])[name]


def packets(lake: Any) -> GopBytes:
    return GopBytes(lake.catalog.dataset("pick").table("gops"))


def read(frames: FrameReader, wanted: Sequence[Frame], size: tuple[int, int], pool: Any = None) -> list[np.ndarray]:
    """(height, width, 3) each."""
    places = Places()
    out = places.canvas([wanted], size)
    frames.fill(places, pool=pool)
    return [image.transpose(1, 2, 0) for image in out[0]]


@pytest.mark.parametrize("max_bytes", [0, 10_000, 2**30])
@pytest.mark.parametrize("threads", [0, 3])
def test_frames_are_the_same_kept_or_decoded_again(lake: Any, max_bytes: int, threads: int) -> None:
    track = episode(lake, "e3", "h264-small").tracks["head"]
    frames = FrameReader(packets(lake), size=None, max_bytes=max_bytes)
    pool = ThreadPoolExecutor(threads) if threads else None
    for numbers in ([40, 3, 3, 12], [0, 55], [3, 40]):
        found = read(frames, [track.frame(number) for number in numbers], (24, 32), pool)
        for number, image in zip(numbers, found, strict=True):
            assert (image == lake.episodes["e3"].small[number][1]).all()
        kept = frames._kept
        assert sum(one.nbytes for one in kept._pictures.values() if one is not None) <= kept._bytes <= max_bytes


def test_pictures_are_kept_while_some_are_asked_for_again_and_of_others_only_the_keys() -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    kept = _Kept(10 * picture.nbytes)

    def ask(key: tuple[int, int]) -> bool:
        found = kept.get(key)
        if found is None:
            kept.add(key, picture)
        return found is not None and (found == picture).all()

    def bytes_kept() -> int:
        return sum(one.nbytes for one in kept._pictures.values() if one is not None)

    assert [ask((row, 0)) for row in (1, 2, 1, 2)] == [False, False, True, True]
    assert not any(ask((row, 0)) for row in range(100, 130))
    assert bytes_kept() == 0
    assert len(kept._pictures) == 10
    found = [ask((row % 5, 0)) for row in range(60)]
    assert not any(found[:5])
    assert all(found[-30:])
    assert 0 < bytes_kept() <= 10 * picture.nbytes


def test_a_kept_picture_is_not_what_is_done_to_the_batch_that_it_came_with(lake: Any) -> None:
    frames = FrameReader(packets(lake), size=None, max_bytes=2**30)
    wanted = [episode(lake, "e3").tracks["head"].frame(12)]
    (first,) = read(frames, wanted, (48, 64))
    was = first.copy()
    first[:] = 7
    (again,) = read(frames, wanted, (48, 64))
    again_was = again.copy()
    again[:] = 9
    assert (again_was == was).all()
    assert (read(frames, wanted, (48, 64))[0] == was).all()


def test_a_gop_is_decoded_once_for_a_batch_and_only_as_far_as_needed(lake: Any, monkeypatch: Any) -> None:
    depths: list[int] = []

    def counted(*arguments: Any, upto: int) -> Any:
        depths.append(upto)
        return decode_with(*arguments, upto=upto)

    monkeypatch.setattr("dataset_catalog.decoders.decode_with", counted)
    windows = lake.catalog.dataset("pick").windows({"head": [-0.05, 0.0]})
    windows.at([("e0", 3), ("e0", 7), ("e0", 5), ("e2", 0)])  # 40 ms a step, 50 ms a frame
    assert sorted(depths) == [1, 7]
    windows.at([("e0", 7), ("e2", 0)])
    assert len(depths) == 2


def test_of_each_gop_only_the_bytes_before_the_last_wanted_frame_are_asked_for(lake: Any) -> None:
    asked: list[Range] = []

    class Recording(GopBytes):
        def read(self, ranges: Sequence[Range]) -> list[bytes]:
            asked.extend(ranges)
            return super().read(ranges)

    track = episode(lake, "e3").tracks["head"]
    frames = FrameReader(Recording(lake.catalog.dataset("pick").table("gops")), size=None, max_bytes=0)
    read(frames, [track.frame(number) for number in (22, 25, 21, 3)], (48, 64))
    assert [(one.gop.row, one.start, one.length) for one in asked] == [
        (gop.row, 0, sum(gop.packet_bytes[: k + 1])) for gop, k in (track.frame(25), track.frame(3))
    ]


def test_where_frames_may_be_shown_in_another_order_the_whole_gop_is_read(lake: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(decoders, "_shows_as_coded", lambda sets: False)
    asked: list[int] = []

    class Recording(GopBytes):
        def read(self, ranges: Sequence[Range]) -> list[bytes]:
            asked.append(sum(one.length for one in ranges))
            return super().read(ranges)

    track = episode(lake, "e3").tracks["head"]
    frames = FrameReader(Recording(lake.catalog.dataset("pick").table("gops")), size=None, max_bytes=0)
    gop, k = track.frame(22)
    (image,) = read(frames, [(gop, k)], (48, 64))
    assert (image == lake.episodes["e3"].frames[22][1]).all()
    assert asked == [sum(gop.packet_bytes[: k + 1]), sum(gop.packet_bytes)]


def test_a_kept_decoder_gives_what_a_fresh_one_gives_also_behind_a_damaged_gop(lake: Any) -> None:
    track = episode(lake, "e3").tracks["head"]
    truth = [image for _, image in lake.episodes["e3"].frames]
    decoder = decoders.PyAV()
    order = np.random.default_rng(0).permutation(len(truth)).tolist()
    for turn, number in enumerate(order):
        gop, k = track.frame(number)
        coded = decoders.Coded(gop.codec, gop.extradata, packets_of(lake, gop)[: k + 1])
        if turn % 5 == 0:
            damaged = coded._replace(packets=[coded.packets[0][: len(coded.packets[0]) // 2], *coded.packets[1:]])
            with pytest.raises(DecodeError):
                list(decoder.pictures(damaged, [k], size=None, fit="stretch"))
        ((found, planes),) = decoder.pictures(coded, [k], size=None, fit="stretch")
        assert found == k
        assert (np.stack(planes, axis=-1) == truth[number]).all()
    assert len(decoder._own.kept) == 1


def packets_of(lake: Any, gop: Gop) -> list[bytes]:
    (payload,) = packets(lake).read([Range(gop, 0, sum(gop.packet_bytes))])
    ends = np.cumsum(gop.packet_bytes).tolist()
    return [payload[end - size : end] for end, size in zip(ends, gop.packet_bytes, strict=True)]


def test_a_payload_that_its_packets_do_not_fill_is_refused(lake: Any) -> None:
    gop, k = episode(lake, "e0").tracks["head"].frame(9)
    frames = FrameReader(packets(lake), size=None, max_bytes=0)
    longer = gop._replace(packet_bytes=(*gop.packet_bytes[:-1], 9_000_000))
    with pytest.raises(DecodeError, match=rf"GOP row {gop.row} \(head of episode e0\) does not hold the .* bytes"):
        read(frames, [(longer, k)], (48, 64))


def test_a_gop_that_does_not_decode_is_named(lake: Any) -> None:
    gop, _ = episode(lake, "e0").tracks["head"].frame(9)
    shifted = gop._replace(packet_bytes=(gop.packet_bytes[0] - 40, *gop.packet_bytes[1:]))
    with pytest.raises(DecodeError, match=rf"GOP row {gop.row} \(head of episode e0\): h264"):
        read(FrameReader(packets(lake), size=None, max_bytes=0), [(shifted, 9)], (48, 64))


def test_frames_of_another_size_want_an_image_size(lake: Any) -> None:
    track = episode(lake, "e0").tracks["head"]
    frames = FrameReader(packets(lake), size=None, max_bytes=0)
    with pytest.raises(WindowError, match=r"\(24, 32\) and \(48, 64\).*give an image_size"):
        read(frames, [track.frame(0)], (24, 32))


def test_a_decoder_that_is_not_there_is_told() -> None:
    with pytest.raises(WindowError, match="decoder must be one of pyav, torchcodec, nvdec, nvdec-torch, got 'gpu'"):
        decoders.decoder("gpu")
    assert isinstance(decoders.decoder("pyav"), decoders.PyAV)


def test_no_gpu_is_an_error_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset_catalog.nvdec.is_there", lambda: False)
    with pytest.raises(WindowError, match="'nvdec' needs an NVIDIA GPU"):
        decoders.decoder("nvdec")


def test_windows_travel_with_their_decoder(lake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    class Counting(decoders.PyAV):
        def pictures(self, coded: Any, wanted: Any, **options: Any) -> Any:
            used.append(len(wanted))
            return super().pictures(coded, wanted, **options)

    monkeypatch.setitem(decoders._NAMED, "nvdec", Counting)
    windows = lake.catalog.dataset("pick").windows({"head": [0.0]}, decoder="nvdec")
    travelled = pickle.loads(pickle.dumps(windows))  # noqa: S301
    assert (travelled.at([("e0", 3)])["head"] == windows.at([("e0", 3)])["head"]).all()
    assert used == [1, 1]
    with pytest.raises(WindowError, match="decoder must be one of"):
        lake.catalog.dataset("pick").windows({"head": [0.0]}, decoder="gpu")
