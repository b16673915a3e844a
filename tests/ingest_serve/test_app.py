"""The HTTP application as robots meet it: what is acknowledged is stored, what is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import requests

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge import signing, wire
from edge.segment import MAGIC
from ingest_serve.bucket import Bucket
from ingest_serve.raw_store import RawStore
from ingest_serve.settings import IngestSettings
from tests.ingest_serve.conftest import (
    BODY,
    RECORDING,
    START_NS,
    Robot,
    Server,
    Upload,
    free_ports,
    refusal,
    serve,
    wait_until,
)

KEY = f"raw/g1-001/{RECORDING}/telemetry/0000000000"
MP4 = b"\x00\x00\x00\x18ftypisom" + b"\x00" * 100


class TestAcknowledged:
    def test_a_new_segment_is_stored_before_its_receipt(self, server: Server, robot: Robot) -> None:
        upload = robot.upload().changed(**{wire.ROBOT_TIME_HEADER: "1760000000000000007"})
        response = robot.send(upload)
        assert response.status_code == 201
        receipt = wire.Receipt.from_json(response.json())
        sha256 = hashlib.sha256(BODY).hexdigest()
        assert (receipt.key, receipt.sha256, receipt.bytes, receipt.already_stored) == (KEY, sha256, len(BODY), False)
        raw, body = RawStore.open(server.storage).read(wire.SegmentId("g1-001", RECORDING, "telemetry", 0))
        assert body == BODY
        assert (raw.kind, raw.content_type, raw.robot_time_ns) == ("telemetry", wire.MCAP_TYPE, 1760000000000000007)
        assert (raw.start_ns, raw.end_ns) == (START_NS, START_NS + 10_000_000_000)
        assert raw.key_id == signing.key_id(signing.public_bytes(robot.key.public_key()))

    def test_what_a_robot_tells_of_its_clock_is_kept_with_the_segment(self, server: Server, robot: Robot) -> None:
        field = wire.RobotClock(-5, 6, 7, 8, "0a-1b").as_field()
        assert robot.send(robot.upload(seq=0).changed(**{wire.ROBOT_CLOCK_HEADER: field})).status_code == 201
        assert robot.send(robot.upload(seq=1)).status_code == 201
        store = RawStore.open(server.storage)
        raws = [store.head(wire.SegmentId("g1-001", RECORDING, "telemetry", seq)) for seq in (0, 1)]
        assert [raw.robot_clock for raw in raws] == [field, None]

    def test_lost_reply_does_not_duplicate_a_segment(self, server: Server, robot: Robot) -> None:
        robot.send(robot.upload())
        response = robot.send(robot.upload())
        assert response.status_code == 200
        assert wire.Receipt.from_json(response.json()).already_stored
        assert server.stored() == [KEY]

    def test_two_sends_of_one_segment_at_once_leave_one_object(self, server: Server, robot: Robot) -> None:
        with ThreadPoolExecutor(2) as pool:
            statuses = sorted(response.status_code for response in pool.map(robot.send, [robot.upload()] * 2))
        assert statuses == [200, 201]
        assert server.stored() == [KEY]

    def test_video_comes_as_mcap_or_as_mp4(self, server: Server, robot: Robot) -> None:
        assert robot.send(robot.upload(kind="video", seq=0)).status_code == 201
        assert robot.send(robot.upload(MP4, kind="video", seq=1, content_type=wire.MP4_TYPE)).status_code == 201
        stored = RawStore.open(server.storage).head(wire.SegmentId("g1-001", RECORDING, "telemetry", 1))
        assert (stored.kind, stored.content_type) == ("video", wire.MP4_TYPE)

    def test_the_edge_s_own_target_is_taken(self, server: Server, robot: Robot) -> None:
        segment = wire.SegmentId("g1-001", RECORDING, "head_camera", 3)
        target = wire.upload_target(segment, kind="video", start_ns=1, end_ns=2)
        assert robot.send(robot.upload(target=target)).status_code == 201
        assert server.stored() == [segment.key]

    def test_a_large_segment_arrives_whole(self, server: Server, robot: Robot) -> None:
        body = MAGIC + bytes(range(256)) * 40_000 + MAGIC
        assert robot.send(robot.upload(body, kind="video")).status_code == 201
        assert RawStore.open(server.storage).get(wire.SegmentId("g1-001", RECORDING, "telemetry", 0)) == body


def test_other_bytes_for_a_stored_segment_are_refused_and_kept(server: Server, robot: Robot) -> None:
    robot.send(robot.upload())
    other = MAGIC + b"other" + MAGIC
    response = robot.send(robot.upload(other))
    assert refusal(response) == (409, "conflict")
    assert response.json()["stored_sha256"] == hashlib.sha256(BODY).hexdigest()
    sha256 = hashlib.sha256(other).hexdigest()
    assert server.stored() == [KEY, f"conflicts/g1-001/{RECORDING}/telemetry/0000000000/{sha256}"]


BAD_TARGETS = {
    "no seq": ({"seq": None}, "bad_parameter", "seq"),
    "seq is text": ({"seq": "one"}, "bad_parameter", "seq"),
    "seq is NaN": ({"seq": "NaN"}, "bad_parameter", "seq"),
    "seq is a fraction": ({"seq": "1.5"}, "bad_parameter", "seq"),
    "seq is negative": ({"seq": -1}, "bad_parameter", "seq"),
    "seq has 11 digits": ({"seq": 10**10}, "bad_parameter", "seq"),
    "seq has 5,000 digits": ({"seq": "9" * 5000}, "bad_parameter", "seq"),
    "seq is empty": ({"seq": ""}, "bad_parameter", "seq"),
    "no start": ({"start_ns": None}, "bad_parameter", "start_ns"),
    "start before 1970": ({"start_ns": -1}, "bad_parameter", "start_ns"),
    "end beyond 2262": ({"end_ns": 2**63}, "bad_parameter", "end_ns"),
    "end at start": ({"end_ns": START_NS}, "bad_parameter", "end_ns"),
    "end before start": ({"end_ns": START_NS - 1}, "bad_parameter", "end_ns"),
    "no recording": ({"recording": None}, "bad_parameter", "recording"),
    "recording is no ULID": ({"recording": "monday"}, "bad_name", None),
    "recording climbs": ({"recording": "../../g1-002"}, "bad_name", None),
    "no stream": ({"stream": None}, "bad_parameter", "stream"),
    "stream is empty": ({"stream": ""}, "bad_name", None),
    "stream climbs": ({"stream": ".."}, "bad_name", None),
    "stream climbs, encoded": ({"stream": "%2e%2e%2fg1-002"}, "bad_name", None),
    "stream has a slash": ({"stream": "a/b"}, "bad_name", None),
    "stream has a NUL": ({"stream": "a%00b"}, "bad_name", None),
    "stream is no UTF-8": ({"stream": "%ff%fe"}, "bad_name", None),
    "stream ends in a newline": ({"stream": "telemetry%0a"}, "bad_name", None),
    "stream is long": ({"stream": "a" * 10_000}, "bad_name", None),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_a_bad_target_is_refused(server: Server, robot: Robot, case: str) -> None:
    query, code, name = BAD_TARGETS[case]
    target = robot.target(**query)
    response = robot.send(robot.upload(target=target))
    assert refusal(response) == (400, code)
    assert response.json().get("parameter") == name
    assert server.stored() == []


@pytest.mark.parametrize("name", ["..%2e", "%2e%2e", "G1", "g1%00", "-g1", "a" * 64, "%F0%9F%A4%96", "a" * 10_000])
def test_a_bad_robot_name_in_the_path_is_refused(server: Server, robot: Robot, name: str) -> None:
    with socket.create_connection(server.address, timeout=10) as connection:  # `requests` would tidy the path
        path = robot.target().replace("g1-001", name)
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        status, problem = read_problem(connection)
    assert (status, problem["code"]) == (400, "bad_name")
    assert server.stored() == []


@pytest.mark.parametrize("where", ["path", "query"])
def test_a_target_of_a_megabyte_is_refused_by_the_http_parser(server: Server, robot: Robot, where: str) -> None:
    long = "a" * 1_000_000
    target = robot.target(stream=long) if where == "query" else robot.target().replace("g1-001", long)
    assert robot.send(robot.upload(target=target)).status_code == 400
    assert server.stored() == []


BAD_HEADERS: dict[str, tuple[Callable[[Upload], Upload], int, str]] = {
    "no token": (lambda upload: upload.changed(Authorization=None), 401, "no_token"),
    "not a bearer": (lambda upload: upload.changed(Authorization="Basic Zm9v"), 401, "no_token"),
    "an empty bearer": (lambda upload: upload.changed(Authorization="Bearer "), 401, "no_token"),
    "no JWT": (lambda upload: upload.changed(Authorization="Bearer abc.def"), 401, "bad_token"),
    "no digest": (lambda upload: upload.changed(Content_Digest=None), 400, "bad_digest"),
    "digest of another kind": (lambda upload: upload.changed(Content_Digest="md5=:Zm9v:"), 400, "bad_digest"),
    "no type": (lambda upload: upload.changed(Content_Type=None), 415, "unsupported_type"),
    "another type": (lambda upload: upload.changed(Content_Type="text/html"), 415, "unsupported_type"),
    "mp4 as telemetry": (lambda upload: upload.changed(Content_Type=wire.MP4_TYPE), 415, "unsupported_type"),
    "robot time is text": (
        lambda upload: upload.changed(**{wire.ROBOT_TIME_HEADER: "noon"}),
        400,
        "bad_parameter",
    ),
    "robot clock is text": (
        lambda upload: upload.changed(**{wire.ROBOT_CLOCK_HEADER: "fast"}),
        400,
        "bad_parameter",
    ),
    "robot clock is empty": (lambda upload: upload.changed(**{wire.ROBOT_CLOCK_HEADER: ""}), 400, "bad_parameter"),
    "robot time beyond 2262": (
        lambda upload: upload.changed(**{wire.ROBOT_TIME_HEADER: str(2**63)}),
        400,
        "bad_parameter",
    ),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_headers_are_refused(server: Server, robot: Robot, case: str) -> None:
    spoil, status, code = BAD_HEADERS[case]
    assert refusal(robot.send(spoil(robot.upload()))) == (status, code)
    assert server.stored() == []


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", MAGIC, MAGIC + MAGIC, BODY[:-1], BODY[1:], b"\x00" * 1000],
    ids=["empty", "text", "one magic", "nothing between", "torn end", "torn start", "zeros"],
)
def test_a_body_that_is_no_mcap_file_is_refused(server: Server, robot: Robot, body: bytes) -> None:
    assert refusal(robot.send(robot.upload(body))) == (400, "not_a_segment")
    assert server.stored() == []


def test_a_body_that_is_no_mp4_file_is_refused(server: Server, robot: Robot) -> None:
    upload = robot.upload(BODY, kind="video", content_type=wire.MP4_TYPE)
    assert refusal(robot.send(upload)) == (400, "not_a_segment")
    assert server.stored() == []


def test_a_body_that_changed_on_the_way_is_refused(server: Server, robot: Robot) -> None:
    changed = BODY.replace(b"lies", b"lied")
    assert refusal(robot.send(replace(robot.upload(), body=changed))) == (400, "digest_mismatch")
    assert server.stored() == []


def test_a_body_without_length_is_refused_unread(server: Server, robot: Robot) -> None:
    upload = robot.upload()
    response = requests.post(server.url + upload.target, data=iter([BODY]), headers=upload.headers, timeout=10)
    assert refusal(response) == (411, "length_required")
    assert server.stored() == []


def test_a_body_over_the_limit_is_refused_unread(storage: Storage) -> None:
    settings = IngestSettings(max_telemetry_bytes=len(BODY) - 1, max_video_bytes=len(BODY))
    with serve(storage, settings) as server:
        robot = server.new_robot()
        response = robot.send(robot.upload())
        assert refusal(response) == (413, "too_large")
        assert response.json()["max_bytes"] == len(BODY) - 1
        assert server.stored() == []
        assert robot.send(robot.upload(kind="video")).status_code == 201


@pytest.mark.parametrize(
    ("length", "status", "code"),
    [("1" * 30, 413, "too_large"), (str(1 << 40), 413, "too_large")],
)
def test_a_huge_declared_length_is_refused_unread(
    server: Server, robot: Robot, length: str, status: int, code: str
) -> None:
    with open_request(robot.upload().changed(Content_Length=length), server) as connection:
        answered, problem = read_problem(connection)
    # a length beyond 64 bits is refused by the HTTP parser itself, in its own words
    assert (answered, problem.get("code")) in [(status, code), (400, None)]
    assert server.stored() == []


def test_half_a_body_stores_nothing(server: Server, robot: Robot) -> None:
    upload = robot.upload()
    with open_request(upload.changed(Content_Length=str(len(BODY))), server) as connection:
        connection.sendall(BODY[: len(BODY) // 2])
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)
    assert robot.send(replace(upload, target="/healthz")).status_code == 405  # the server goes on
    assert server.stored() == []


def test_a_body_that_trickles_is_cut_off(storage: Storage) -> None:
    with serve(storage, IngestSettings(body_grace_s=0.3)) as server:
        robot = server.new_robot()
        with open_request(robot.upload().changed(Content_Length=str(len(BODY))), server) as connection:
            connection.sendall(BODY[:10])
            status, problem = read_problem(connection)
            assert (status, problem["code"]) == (408, "slow_body")
            assert connection.recv(1) == b""  # and the connection is closed
        assert server.stored() == []


def test_a_full_server_says_when_to_come_again_and_is_free_again_after(
    storage: Storage, held: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(BODY)
    stored = threading.Event()
    create = Bucket.create_async

    async def late(*arguments: object) -> bool:
        while not stored.is_set():
            await asyncio.sleep(0.01)
        return await create(*arguments)  # type: ignore[arg-type]

    limits = IngestSettings(
        max_telemetry_bytes=size, max_video_bytes=size, max_bytes_in_flight=2 * size, retry_after_s=7
    )
    with serve(storage, limits) as server, ThreadPoolExecutor(1) as pool:
        robot, other = server.new_robot(), server.new_robot("g1-002")
        monkeypatch.setattr(Bucket, "create_async", late)
        first = pool.submit(robot.send, robot.upload(seq=1))
        wait_until(lambda: held() == size, limit_s=20)
        response = other.send(other.upload())
        assert refusal(response) == (503, "busy")
        assert response.headers["Retry-After"] == "7"
        stored.set()
        assert first.result().status_code == 201
        assert other.send(other.upload()).status_code == 201
        assert held() == 0


def test_an_unknown_route_and_a_wrong_method_are_problems_too(server: Server) -> None:
    assert refusal(requests.get(f"{server.url}/v1/nothing", timeout=10)) == (404, "not_found")
    assert refusal(requests.post(f"{server.url}/v1/robots/g1-001/telemetry/", timeout=10)) == (404, "not_found")
    for path, allowed in (("telemetry", "GET, HEAD, POST"), ("uploads/u", "DELETE, HEAD, PATCH")):
        response = requests.put(f"{server.url}/v1/robots/g1-001/{path}", timeout=10)
        assert refusal(response) == (405, "method_not_allowed")
        assert response.headers["Allow"] == allowed
        assert allowed in response.json()["detail"]


def test_every_answer_tells_the_server_s_time(server: Server, robot: Robot) -> None:
    server.clock.offset_ns = -(10**18)
    for response in (requests.get(f"{server.url}/healthz", timeout=10), robot.send(robot.upload())):
        assert response.status_code in (200, 201)
        assert abs(int(response.headers[wire.SERVER_TIME_HEADER]) - server.clock()) < 5_000_000_000


def test_health_does_not_ask_the_bucket_and_readiness_does(server: Server, unreachable: Server) -> None:
    for route in ("healthz", "readyz"):
        assert requests.get(f"{server.url}/{route}", timeout=10).json() == {"status": "ok"}
    assert requests.get(f"{unreachable.url}/healthz", timeout=10).status_code == 200
    response = requests.get(f"{unreachable.url}/readyz", timeout=30)
    assert refusal(response) == (503, "storage_unavailable")
    assert "Retry-After" in response.headers


@pytest.fixture
def unreachable() -> Iterator[Server]:
    """A server whose bucket is not there."""
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = StorageSettings(endpoint_url=endpoint, access_key_id="test", secret_access_key="test-secret")
    with serve(Storage.open("s3://fleetfeed", settings=settings)) as running:
        yield running


def test_an_unreachable_bucket_is_never_acknowledged(
    server: Server, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket goes away between the signature and the write: 503, and the same upload lands later."""
    from ingest_serve.bucket import Bucket
    from ingest_serve.errors import StorageUnavailable

    async def gone(*_: object) -> bool:
        raise StorageUnavailable("connection refused")

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "create_async", gone)
        response = robot.send(robot.upload())
        assert refusal(response) == (503, "storage_unavailable")
        assert response.headers["Retry-After"] == "5"
    assert server.stored() == []
    assert robot.send(robot.upload()).status_code == 201


def test_what_nobody_foresaw_is_a_problem_without_a_traceback(
    server: Server, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bool:
        raise ZeroDivisionError("secret inner workings")

    monkeypatch.setattr("ingest_serve.bucket.Bucket.create_async", broken)
    response = robot.send(robot.upload())
    assert refusal(response) == (500, "internal_error")
    assert "secret" not in response.text


def test_a_client_s_wish_for_another_timeout_is_ignored(server: Server, robot: Robot) -> None:
    upload = robot.upload().changed(x_request_timeout_seconds="0.000001")
    assert robot.send(upload).status_code == 201


def test_uploads_of_many_robots_at_once_are_all_stored(server: Server) -> None:
    robots = [server.new_robot(f"g1-{number:03d}") for number in range(4)]
    uploads = [(robot, robot.upload(seq=seq)) for robot in robots for seq in range(5)]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda one: one[0].send(one[1]).status_code, uploads))
    assert statuses == [201] * 20
    assert len(server.stored()) == 20
    assert threading.active_count() < 100


def open_request(upload: Upload, server: Server) -> socket.socket:
    """A connection over which the head of a request was sent, and nothing of its body."""
    connection = socket.create_connection(server.address, timeout=10)
    head = [
        f"POST {upload.target} HTTP/1.1",
        "Host: x",
        *(f"{name}: {value}" for name, value in upload.headers.items()),
    ]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def read_status(connection: socket.socket) -> int:
    return int(_read_answer(connection)[0].split()[1])


def read_problem(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and problem of an answer; an answer that is not JSON counts as an empty problem."""
    head, body = _read_answer(connection)
    problem = json.loads(body) if body.startswith(b"{") else {}
    return int(head.split()[1]), problem


def _read_answer(connection: socket.socket) -> tuple[str, bytes]:
    file = connection.makefile("rb")
    head = b"".join(iter(file.readline, b"\r\n")).decode()
    lengths = [line.partition(":")[2] for line in head.splitlines() if line.lower().startswith("content-length")]
    return head, file.read(int(lengths[0])) if lengths else file.read()
