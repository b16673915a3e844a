"""Create-once PUTs: against the real S3, and against one whose connections and answers are scripted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr

from dataset_catalog.settings import StorageSettings
from dataset_catalog.storage import Storage
from edge.wire import RobotClock
from fleetfeed.certificates import Authority
from ingest_serve import s3_put
from ingest_serve.bucket import Bucket
from ingest_serve.chunks import Chunks
from ingest_serve.errors import StorageUnavailable
from ingest_serve.s3_put import S3Put

KEY = "raw/g1-001/01J00000000000000000000000/telemetry/0000000007"
BODY = b"some bytes"
OK, CLOSE = "200 OK", "close"


def attributes(body: bytes = BODY, **more: str) -> dict[str, str]:
    return {"Content-Type": "application/vnd.mcap", "sha256": hashlib.sha256(body).hexdigest(), **more}


@pytest.fixture
def put(storage: Storage) -> S3Put:
    return S3Put(storage)


class TestWithS3:
    def test_an_object_is_written_once_with_its_metadata(self, put: S3Put, storage: Storage) -> None:
        clock = RobotClock(-5, 6, 7, 8, "0a-1b").as_field()
        facts = attributes(kind="telemetry", **{"robot-clock": clock, "start-ns": "1"})

        assert asyncio.run(put.create(KEY, BODY, facts)) is True
        assert asyncio.run(put.create(KEY, b"other", attributes(b"other"))) is False

        found = Bucket.open(storage).read(KEY)
        assert found is not None
        assert (found[0].attributes, found[1]) == (facts, BODY)

    @pytest.mark.parametrize("prefix", ["", "lake", "a lake/of ours"])
    def test_it_lands_where_obstore_reads_it(self, storage: Storage, prefix: str) -> None:
        inside = Storage(f"{storage.url}/{prefix}".rstrip("/"), storage.settings)
        bucket = Bucket.open(inside)

        assert asyncio.run(bucket.create_async(KEY, BODY, attributes()))

        assert bucket.names("raw") == [KEY.removeprefix("raw/")]

    def test_a_body_that_is_not_what_its_digest_says_is_refused_and_not_visible(
        self, put: S3Put, storage: Storage
    ) -> None:
        with pytest.raises(StorageUnavailable, match="400"):
            asyncio.run(put.create(KEY, b"changed on the way", attributes()))

        assert Bucket.open(storage).head(KEY) is None

    def test_the_checksum_is_held_against_the_body_by_itself(
        self, put: S3Put, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where the payload's hash in the signature is right, S3 was asked for its own checksum."""
        fields = s3_put._fields
        monkeypatch.setattr(s3_put, "_fields", lambda named, _: fields(named, hashlib.sha256(b"else").hexdigest()))

        with pytest.raises(StorageUnavailable, match="BadDigest"):
            asyncio.run(put.create(KEY, BODY, attributes()))

        assert Bucket.open(storage).head(KEY) is None

    def test_a_large_body_for_a_taken_key_is_told_so(self, put: S3Put) -> None:
        asyncio.run(put.create(KEY, BODY, attributes()))
        large = bytearray(20_000_000)

        assert asyncio.run(put.create(KEY, large, attributes(large))) is False

    def test_a_body_in_chunks_is_written_once_and_whole(self, storage: Storage) -> None:
        bucket, body = Bucket.open(storage), Chunks()
        for size in (7, 6_000_000, 100_000, 1):
            body.add(os.urandom(size))

        assert asyncio.run(bucket.create_async(KEY, body, attributes(bytes(body)))) is True
        assert asyncio.run(bucket.create_async(KEY, b"other", attributes(b"other"))) is False

        found = bucket.read(KEY)
        assert found is not None
        assert (found[0].attributes, found[1]) == (attributes(bytes(body)), bytes(body))

    def test_one_of_many_at_once_wins(self, put: S3Put) -> None:
        async def race() -> list[bool]:
            return await asyncio.gather(*(put.create(KEY, BODY, attributes()) for _ in range(8)))

        assert sum(asyncio.run(race())) == 1

    def test_a_wrong_key_is_no_reason_to_try_again(self, storage: Storage) -> None:
        wrong = S3Put(Storage(storage.url, changed(storage, secret_access_key=SecretStr("wrong"))))

        with pytest.raises(StorageUnavailable, match="403 SignatureDoesNotMatch"):
            asyncio.run(wrong.create(KEY, BODY, attributes()))

    def test_a_key_that_only_aws_s_chain_knows_writes_too(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        by_chain = Storage(storage.url, changed(storage, access_key_id=None, secret_access_key=None))

        assert asyncio.run(S3Put(by_chain).create(KEY, BODY, attributes())) is True
        assert Bucket.open(storage).head(KEY) is not None

    def test_it_pickles_and_shows_no_secret(self, put: S3Put) -> None:
        again = pickle.loads(pickle.dumps(put))  # noqa: S301 - our own bytes

        assert asyncio.run(again.create(KEY, BODY, attributes()))
        assert "test-secret" not in repr(put)


def changed(storage: Storage, **fields: object) -> StorageSettings:
    return storage.settings.model_copy(update=fields)


def writer(url: str) -> S3Put:
    """To a bucket of a server without an account."""
    secret = SecretStr("secret")
    return S3Put(Storage("s3://b", StorageSettings(endpoint_url=url, access_key_id="id", secret_access_key=secret)))


@dataclass
class Script:
    """An S3 that answers as told: a status, `close` for hanging up without one, or what to wait for."""

    answers: list[str | Awaitable[object]]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    hang_up_after_answers: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(await reader.readexactly(length))
                answer = self.answers.pop(0)
                if not isinstance(answer, str):
                    await answer
                    answer = OK
                if answer == CLOSE:
                    break
                writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
                if self.hang_up_after_answers:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scripted(*answers: str | Awaitable[object], hang_up: bool = False) -> AsyncIterator[tuple[Script, S3Put]]:
    script = Script(list(answers), hang_up_after_answers=hang_up)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    put = writer(f"http://{host}:{port}")
    try:
        yield script, put
    finally:
        server.close()
        for _, connection in put._idle:
            connection.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_put, "PAUSES_S", (0.0, 0.0, 0.0))


def run(answers: Sequence[str], act: Callable[[Script, S3Put], Awaitable[None]], *, hang_up: bool = False) -> Script:
    async def inside() -> Script:
        async with scripted(*answers, hang_up=hang_up) as (script, put):
            await act(script, put)
            return script

    return asyncio.run(inside())


async def create_three(_: Script, put: S3Put) -> None:
    for seq in range(3):
        assert await put.create(f"{KEY}{seq}", BODY, attributes())


async def create(_: Script, put: S3Put) -> None:
    assert await put.create(KEY, BODY, attributes())


async def fail(_: Script, put: S3Put) -> None:
    with pytest.raises(StorageUnavailable):
        await put.create(KEY, BODY, attributes())


def test_a_connection_is_kept_for_the_next_body() -> None:
    assert run([OK] * 3, create_three).connections == 1


def test_a_kept_connection_that_the_server_has_closed_costs_nothing_but_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_put, "PAUSES_S", ())

    script = run([OK] * 3, create_three, hang_up=True)

    assert (script.connections, len(script.requests)) == (3, 3)


def test_an_idle_connection_is_not_trusted_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_put, "KEEP_S", 0.0)

    assert run([OK] * 3, create_three).connections == 3


@pytest.mark.parametrize("failure", ["503 Slow Down", "500 Internal Server Error", CLOSE])
def test_what_may_pass_is_tried_again(failure: str) -> None:
    assert run([failure, failure, OK], create).requests == [BODY] * 3


@pytest.mark.parametrize("failure", ["503 Slow Down", CLOSE])
def test_but_not_for_ever(failure: str) -> None:
    assert len(run([failure] * 9, fail).requests) == 4


@pytest.mark.parametrize("failure", ["403 Forbidden", "400 Bad Request", "302 Found"])
def test_what_does_not_pass_is_not_tried_again(failure: str) -> None:
    assert len(run([failure, OK], fail).requests) == 1


@pytest.mark.parametrize("answer", ["412 Precondition Failed", "409 Conflict"])
def test_an_object_that_stands_is_not_written_again(answer: str) -> None:
    async def stands(_: Script, put: S3Put) -> None:
        assert await put.create(KEY, BODY, attributes()) is False

    assert len(run([answer], stands).requests) == 1


def test_nobody_gets_the_answer_to_a_request_that_was_given_up() -> None:
    async def inside() -> None:
        late, gone_on = asyncio.Event(), "412 Precondition Failed"
        async with scripted(OK, late.wait(), gone_on) as (script, put):
            assert await put.create(KEY, BODY, attributes())
            ((_, connection),) = put._idle
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await put.create(KEY, BODY, attributes())
            assert connection.is_closing
            late.set()
            assert await put.create(KEY, BODY, attributes()) is False
            assert script.connections == 2

    asyncio.run(inside())


def test_what_is_no_http_is_a_failure_and_no_answer() -> None:
    async def inside() -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"SSH-2.0-OpenSSH\r\n")

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        put = writer(f"http://{host}:{port}")
        with pytest.raises(StorageUnavailable, match="no HTTP"):
            await put.create(KEY, BODY, attributes())
        server.close()

    asyncio.run(inside())


def test_over_tls_it_writes_to_none_but_the_server_that_the_endpoint_names(tmp_path: Path) -> None:
    authority = Authority.new(now=datetime.now(UTC))
    trusted = ssl.create_default_context(cadata=authority.certificate.public_bytes(Encoding.PEM).decode())

    def writes(name: str, trust: ssl.SSLContext) -> Coroutine[Any, Any, bool]:
        pem = tmp_path / name
        pem.write_bytes(authority.sign_server([name], now=datetime.now(UTC)))
        return _over_tls(pem, trust)

    assert asyncio.run(writes("127.0.0.1", trusted)) is True
    for name, trust in (("s3.example.org", trusted), ("127.0.0.1", ssl.create_default_context())):
        with pytest.raises(StorageUnavailable, match="certificate verify failed"):
            asyncio.run(writes(name, trust))


async def _over_tls(pem: Path, trust: ssl.SSLContext) -> bool:
    script, tls = Script([OK]), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    put = writer(f"https://{host}:{port}")
    put._tls = trust
    try:
        large = bytearray(3_000_000)
        return await put.create(KEY, large, attributes(large)) and script.requests == [large]
    finally:
        server.close()
        for _, connection in put._idle:
            connection.close()


def test_aws_is_asked_over_tls_where_no_endpoint_is_set(storage: Storage) -> None:
    put = S3Put(Storage("s3://lake/here", changed(storage, endpoint_url=None, region="eu-central-1")))

    assert (put._host, put._port, put._root) == ("s3.eu-central-1.amazonaws.com", 443, "/lake/here")
    assert put._tls is not None
