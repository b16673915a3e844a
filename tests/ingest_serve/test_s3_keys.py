"""The key for S3 is that of the settings, or AWS's own chain gives one and renews it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from dataset_catalog.settings import StorageSettings
from ingest_serve.errors import StorageUnavailable
from ingest_serve.s3_keys import FindS3Key, S3Key, s3_key_of

CHAIN = StorageSettings(access_key_id=None, secret_access_key=None)


@pytest.fixture(autouse=True)
def _nothing_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of nobody's: no key in the environment, no profile, and no instance that would give one."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def take(find: FindS3Key, times: int) -> list[S3Key]:
    async def inside() -> list[S3Key]:
        return [await find() for _ in range(times)]

    return asyncio.run(inside())


@contextmanager
def role(monkeypatch: pytest.MonkeyPatch, *, lasts: timedelta) -> Iterator[list[str]]:
    """What gives containers their role's key, on loopback: a new one each time it is asked; yields those it gave."""
    given: list[str] = []

    class Role(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(f"id-{len(given)}")
            ends = (datetime.now(UTC) + lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
            key = {"AccessKeyId": given[-1], "SecretAccessKey": "secret", "Token": "session", "Expiration": ends}
            body = json.dumps(key).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Role)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/role")
    try:
        yield given
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_key_of_the_settings_goes_before_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    settings = StorageSettings(access_key_id="id", secret_access_key=SecretStr("secret"))

    assert take(s3_key_of(settings), 1) == [S3Key("id", "secret", None)]


def test_a_role_s_key_is_asked_for_once_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    with role(monkeypatch, lasts=timedelta(hours=6)) as given:
        assert take(s3_key_of(CHAIN), 5) == [S3Key("id-0", "secret", "session")] * 5
        assert given == ["id-0"]


def test_a_role_s_key_is_renewed_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with role(monkeypatch, lasts=timedelta(minutes=5)):
        taken = [key.id for key in take(s3_key_of(CHAIN), 3)]

    assert len(set(taken)) > 1


def test_a_key_that_cannot_be_renewed_just_now_is_used_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    find = s3_key_of(CHAIN)
    with role(monkeypatch, lasts=timedelta(minutes=14)):
        before = take(find, 1)

    assert take(find, 1) == before


def test_no_key_at_all_is_no_storage() -> None:
    with pytest.raises(StorageUnavailable, match="no key for S3"):
        take(s3_key_of(CHAIN), 1)


def test_nothing_of_a_key_but_its_id_is_shown() -> None:
    assert repr(S3Key("id", "secret-words", "session-words")) == "S3Key(id='id')"
