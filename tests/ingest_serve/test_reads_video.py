"""Clips, playlists and raw segments over HTTP: the bytes that the catalog cuts, and what HTTP promises about them."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import pytest
import requests

from dataset_catalog import Catalog
from dataset_catalog.clip import Clip
from dataset_catalog.storage import Storage
from tests.dataset_catalog.filmed import (
    FRAME_NS,
    OTHER_RECORDING,
    T0,
    Filmed,
    as_mcap,
    assert_same_pictures,
    decode_file,
    gray_packets,
    make_mp4,
    rgb,
)
from tests.ingest_serve.conftest import Server, refusal, serve, wait_until
from tests.ingest_serve.reading import Researcher, S, film, lazy_reader


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FLEETFEED_READS_CACHE_DIR", str(tmp_path / "clips"))
    monkeypatch.setenv("FLEETFEED_READS_INDEX_CACHE_S", "0")
    return tmp_path / "clips"


@pytest.fixture
def server(storage: Storage, cache: Path) -> Iterator[Server]:
    with serve(storage) as running:
        yield running


@pytest.fixture
def ada(server: Server) -> Researcher:
    return Researcher(server)


def test_a_clip_is_what_the_catalog_cuts_and_says_where_it_lies_in_time(ada: Researcher, storage: Storage) -> None:
    film(storage)
    expected = Catalog(storage).clip("h1", "head", T0 + S, T0 + 2 * S)
    got = ada.clip(start="2026-01-01T00:00:01Z", end=T0 + 2 * S)
    assert (got.status_code, got.headers["Content-Type"]) == (200, "video/mp4")
    assert got.content == expected.to_bytes()
    assert int(got.headers["Fleetfeed-Start-Ns"]) == expected.start_ns < T0 + S
    assert int(got.headers["Fleetfeed-End-Ns"]) == expected.end_ns
    assert got.headers["ETag"] == f'"{expected.digest}"'
    assert (got.headers["Accept-Ranges"], got.headers["Cache-Control"]) == ("bytes", "private, no-cache")
    name = r'inline; filename="h1_head_2026-01-01T000000\.50\dZ_1\.7s\.mp4"'
    assert re.fullmatch(name, got.headers["Content-Disposition"]), got.headers["Content-Disposition"]
    assert (got.headers["Fleetfeed-Index-Version"], got.headers["Vary"]) == ("1", "Authorization")
    assert int(got.headers["Fleetfeed-Index-Published-Ns"]) == T0 + 1


def test_ranges_put_together_are_the_whole(ada: Researcher, storage: Storage) -> None:
    film(storage)
    whole = ada.clip()
    size, etag = len(whole.content), whole.headers["ETag"]
    parts = [ada.clip(headers={"Range": f"bytes={at}-{at + 1999}", "If-Range": etag}) for at in range(0, size, 2000)]
    assert {part.status_code for part in parts} == {206}
    assert b"".join(part.content for part in parts) == whole.content
    assert parts[0].headers["Content-Range"] == f"bytes 0-1999/{size}"
    assert ada.clip(headers={"Range": "bytes=-7"}).content == whole.content[-7:]
    assert ada.clip(headers={"Range": f"bytes={size - 7}-"}).content == whole.content[-7:]


def test_conditions_and_head_are_honoured(ada: Researcher, storage: Storage) -> None:
    film(storage)
    whole = ada.clip()
    etag, size = whole.headers["ETag"], len(whole.content)
    known = ada.clip(headers={"If-None-Match": f'"x", {etag}'})
    assert (known.status_code, known.content, known.headers["ETag"]) == (304, b"", etag)
    changed = ada.clip(headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    beyond = ada.clip(headers={"Range": f"bytes={size}-"})
    assert refusal(beyond) == (416, "bad_range")
    assert beyond.headers["Content-Range"] == f"bytes */{size}"
    for odd in ("bytes=9-3", "lines=0-1", "bytes=0-1,5-6", "bytes=x-"):
        assert ada.clip(headers={"Range": odd}).content == whole.content
    head = ada.clip(method="HEAD", headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(size))


def test_a_clip_in_the_cache_needs_no_bucket_and_many_who_ask_at_once_have_it_made_once(
    ada: Researcher, storage: Storage, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    filmed, made, write = film(storage), [], Clip.write

    def counted(self: Clip, file: Any) -> None:
        made.append(self.digest)
        write(self, file)

    monkeypatch.setattr(Clip, "write", counted)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ada.clip(), range(12)))
    assert {one.status_code for one in answers} == {200}
    assert len({one.content for one in answers}) == len(made) == 1
    for row in filmed.rows:
        storage.filesystem().rm(storage.path(row["key"]))
    assert ada.clip().content == answers[0].content
    assert [path.suffix for path in sorted(cache.iterdir())] == ["", ".mp4"]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_what_is_missing_is_left_out_and_told(ada: Researcher, storage: Storage) -> None:
    filmed = Filmed(storage)
    filmed.film(gray_packets(T0, 20), seq=0)
    filmed.gap(1, start_ns=T0 + S, end_ns=T0 + 2 * S)
    broken = [packet for n, packet in enumerate(gray_packets(T0 + 2 * S, 20)) if n != 5]
    filmed.add(as_mcap(broken), seq=3, start_ns=T0 + 2 * S, end_ns=T0 + 3 * S)
    filmed.film(gray_packets(T0 + 3 * S, 20), seq=4)
    filmed.publish()
    got = ada.clip()
    times = [t_ns for t_ns, _ in decode_file(got.content, start_ns=int(got.headers["Fleetfeed-Start-Ns"]))]
    assert len(times) == 40
    assert times[20] - times[19] > 2 * S
    assert got.headers["Fleetfeed-Missing"] == f"{T0 + S}-{T0 + 2 * S};gap, {T0 + 2 * S}-{T0 + 3 * S};quarantined"
    assert got.headers["Fleetfeed-Missing-Count"] == "2"


def test_a_change_of_the_encoding_leads_to_both_parts(ada: Researcher, storage: Storage) -> None:
    filmed = Filmed(storage)
    filmed.film(gray_packets(T0, 20), seq=0)
    filmed.film(gray_packets(T0 + S, 20, crf=21, size=(96, 64)), seq=1)
    filmed.publish()
    changed = ada.clip()
    assert refusal(changed) == (409, "codec_changed")
    at_ns = changed.json()["changed_at_ns"]
    assert len(decode_file(ada.clip(end=at_ns).content)) == len(decode_file(ada.clip(start=at_ns).content)) == 20


def test_what_is_wrong_with_a_request_is_said(ada: Researcher, storage: Storage) -> None:
    assert refusal(ada.clip()) == (404, "no_video")
    assert "index_segments" in ada.clip().json()["detail"]
    filmed = film(storage)
    filmed.film(gray_packets(T0 + S, 20, crf=21), seq=0, recording=OTHER_RECORDING)
    filmed.publish()
    too_long = ada.clip(end=T0 + 601 * S)
    assert refusal(too_long) == (400, "clip_too_long")
    assert (
        requests.get(ada.server.url + too_long.json()["playlist"], headers=ada.headers, timeout=30).status_code == 409
    )
    overlapping = ada.clip()
    assert refusal(overlapping) == (409, "overlapping_video")
    recordings = overlapping.json()["recordings"]
    assert [len(decode_file(ada.clip(recording=one).content)) for one in recordings] == [75, 20]
    assert refusal(ada.clip(stream="tail")) == (404, "no_video")
    assert refusal(ada.clip(stream="Tail!")) == (400, "bad_name")
    assert refusal(ada.get("robots/H1/video", stream="head", start=1, end=2)) == (400, "bad_name")
    for wrong in (
        {"start": "yesterday"},
        {"start": T0 + 200 * S},
        {"end": "9" * 30},
        {"end": ""},
        {"stream": ""},
        {"redirect": "yes"},
        {"strem": "head"},
        {"recording": "x"},
    ):
        status, code = refusal(ada.clip(**wrong))
        assert (status, code) in ((400, "bad_parameter"), (400, "bad_name")), wrong


def test_flipped_bits_in_the_bucket_are_a_problem_and_no_clip(ada: Researcher, storage: Storage, cache: Path) -> None:
    filmed = Filmed(storage)
    body = as_mcap(gray_packets(T0, 20))
    filmed.add(body, seq=0, stored=body[:700] + bytes([body[700] ^ 4]) + body[701:])
    filmed.publish()
    assert refusal(ada.clip()) == (502, "damaged_segment")
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_only_somebody_with_the_scope_reads(server: Server, storage: Storage) -> None:
    film(storage)
    target = f"{server.url}/v1/robots/h1/video?stream=head&start={T0}&end={T0 + S}"
    assert refusal(requests.get(target, timeout=30)) == (401, "no_token")
    assert refusal(Researcher(server, scopes=("admin", "publish")).clip()) == (403, "wrong_scope")
    robot = server.new_robot("h1")
    signed = {"Authorization": f"Bearer {robot.token(target.removeprefix(server.url), '', method='GET')}"}
    assert refusal(requests.get(target, headers=signed, timeout=30)) == (403, "wrong_scope")


def test_a_presigned_address_gives_the_raw_segment_and_the_next_one_is_linked(
    ada: Researcher, storage: Storage
) -> None:
    filmed = Filmed(storage)
    bodies = [as_mcap(gray_packets(T0 + n * 2 * S, 20, crf=20 + n)) for n in range(3)]
    for seq, body in enumerate(bodies):
        filmed.add(body, seq=seq)
    filmed.publish()
    seen, url = [], f"{ada.server.url}/v1/robots/h1/video?stream=head&start={T0 + 500_000_000}&redirect=1"
    while url:
        answer = requests.get(url, headers=ada.headers, timeout=30, allow_redirects=False)
        assert answer.status_code == 307, answer.text
        assert ada.token not in answer.headers["Location"]
        seen.append(requests.get(answer.headers["Location"], timeout=30).content)
        following = answer.links.get("next")
        url = following and ada.server.url + following["url"]
    assert seen == bodies


def test_a_playlist_plays_as_its_clips_over_holes_and_changes(ada: Researcher, storage: Storage) -> None:
    filmed = Filmed(storage)
    for seq, start_ns in enumerate([T0, T0 + S, T0 + 5 * S]):
        filmed.film(gray_packets(start_ns, 20), seq=seq)
    filmed.publish()
    whole = {"stream": "head", "start": T0 + 300_000_000, "end": T0 + 3600 * S}
    text = ada.get("robots/h1/video/playlist.m3u8", **whole)
    assert (text.status_code, text.headers["Content-Type"].split(";")[0]) == (200, "application/vnd.apple.mpegurl")
    lines = text.text.splitlines()
    assert (lines[0], lines[-1], lines.count("#EXT-X-DISCONTINUITY")) == ("#EXTM3U", "#EXT-X-ENDLIST", 1)
    assert sum(line.startswith("#EXT-X-MAP") for line in lines) == 1
    played = play(ada, **whole)
    clip = ada.clip(start=whole["start"])
    assert_same_pictures(played, decode_file(clip.content))


def test_a_playlist_of_mp4_segments_plays_as_they_are(ada: Researcher, storage: Storage) -> None:
    filmed = Filmed(storage)
    bodies = [make_mp4(first=40), make_mp4(first=90)]
    for seq, body in enumerate(bodies):
        filmed.film_mp4(body, seq=seq, start_ns=T0 + seq * S)
    filmed.publish()
    source = [one for n, body in enumerate(bodies) for one in decode_file(body, start_ns=n * S)]
    assert_same_pictures(play(ada, stream="head", start=T0, end=T0 + 10 * S), source)


def play(ada: Researcher, **query: Any) -> list[Any]:
    """What libav's HLS demuxer and a decoder make of a playlist: presentation times in ns, and pictures."""
    address = requests.Request("GET", f"{ada.server.url}/v1/robots/h1/video/playlist.m3u8", params=query).prepare().url
    options = {"headers": f"Authorization: Bearer {ada.token}\r\n"}
    with av.open(str(address), options=options) as container:
        found = [
            (round(frame.pts * frame.time_base * 1_000_000_000), rgb(frame)) for frame in container.decode(video=0)
        ]
    return [(t_ns - found[0][0], picture) for t_ns, picture in found]


def test_a_reader_that_takes_nothing_makes_the_server_hold_nothing(
    ada: Researcher, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ingest_serve.read_answers as answers

    filmed = Filmed(storage)
    noise = make_noise()
    filmed.film_mp4(noise, seq=0, start_ns=T0)
    filmed.publish()
    read: list[int] = []
    pread = answers.os.pread
    monkeypatch.setattr(answers.os, "pread", lambda fd, size, at: read.append(size) or pread(fd, size, at))
    with lazy_reader(ada, f"/v1/robots/h1/video?stream=head&start={T0}&end={T0 + 100 * S}"):
        wait_until(lambda: len(read) > 0, limit_s=20)
        again = ada.clip()  # a brisk one goes past it
        brisk = len(again.content)
        assert sum(read) < brisk + brisk // 2
    assert brisk > 12 << 20


def make_noise() -> bytes:
    """About 16 MB of pictures that nobody can compress."""
    import numpy as np

    file, dice = io.BytesIO(), np.random.default_rng(1)
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        stream.options = {"preset": "ultrafast", "qp": "1", "x264-params": "keyint=1:bframes=0"}
        for _ in range(24):
            picture = dice.integers(0, 255, (480, 640, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_real_robot_video_comes_over_http_and_by_playlist(ada: Researcher, storage: Storage, real_data: Path) -> None:
    folder = real_data / "g1/videos/chunk-000/observation.images.cam_high"
    filmed = Filmed(storage)
    body = (folder / "episode_000001.mp4").read_bytes()
    filmed.film_mp4(body, seq=0, start_ns=T0)
    filmed.publish()
    got = ada.clip(start=T0 + 5 * S, end=T0 + 6 * S)
    start_ns = int(got.headers["Fleetfeed-Start-Ns"])
    source = decode_file(body, start_ns=T0)
    found = decode_file(got.content, start_ns=start_ns)
    expected = [one for one in source if start_ns <= one[0] < int(got.headers["Fleetfeed-End-Ns"])]
    assert_same_pictures(found, expected)
    assert_same_pictures(play(ada, stream="head", start=T0 + 5 * S, end=T0 + 6 * S), decode_file(got.content))


def test_more_reads_than_there_are_turns_are_told_to_come_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(storage)
    monkeypatch.setenv("FLEETFEED_READS_AT_ONCE", "1")
    monkeypatch.setattr("ingest_serve.read_work.WAIT_S", 0.2)
    held, go = threading.Event(), threading.Event()
    write = Clip.write

    def slow(self: Clip, file: Any) -> None:
        held.set()
        assert go.wait(20)
        write(self, file)

    monkeypatch.setattr(Clip, "write", slow)
    with serve(storage) as server, ThreadPoolExecutor(1) as pool:
        ada = Researcher(server)
        first = pool.submit(ada.clip)
        assert held.wait(20)
        busy = ada.clip(end=T0 + FRAME_NS)
        go.set()
        assert refusal(busy) == (503, "busy")
        assert int(busy.headers["Retry-After"]) >= 1
        assert first.result().status_code == 200
        assert ada.clip(end=T0 + FRAME_NS).status_code == 200
