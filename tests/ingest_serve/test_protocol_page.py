"""A client written from docs/PROTOCOL.md alone, without the robot side, uploads, resumes and changes its key."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ingest_serve.registry import Registry, invite
from tests.ingest_serve.conftest import Server

PAGE = Path(__file__).parents[2] / "docs/PROTOCOL.md"
MAGIC = b"\x89MCAP0\r\n"
BODY = MAGIC + b"0123456789" * 25 + MAGIC
QUERY = "recording=01M858NYVVJ0D88BZSHFCBNX5H&stream=head_camera&seq=42&start_ns=1000&end_ns=2000"
TARGET = f"/v1/robots/h1-amber/video?{QUERY}"


class Stranger:
    """What the page says, in as few lines as it takes."""

    def __init__(self, url: str, private: str = "", *, now: Callable[[], int] = lambda: int(time.time())) -> None:
        self.url, self.now = url, now
        secret = bytes.fromhex(private) or secrets.token_bytes(32)
        self.key = Ed25519PrivateKey.from_private_bytes(secret)

    def token(self, method: str, target: str, digest: str, upl: str = "") -> str:
        now = self.now()
        claims = {"sub": "h1-amber", "aud": "fleetfeed-ingest", "iat": now, "exp": now + 60, "htm": method}
        claims |= {"htu": target, "dig": digest} | ({"upl": upl} if upl else {})
        return jwt.encode(claims, self.key, algorithm="EdDSA", headers={"kid": self.kid})

    @property
    def kid(self) -> str:
        return hashlib.sha256(self.key.public_key().public_bytes_raw()).hexdigest()[:16]

    @property
    def public(self) -> str:
        return base64.b64encode(self.key.public_key().public_bytes_raw()).decode()

    def send(self, method: str, target: str, body: bytes | None = None, **fields: Any) -> requests.Response:
        headers = {name.replace("_", "-"): str(value) for name, value in fields.items()}
        if body is not None:
            headers["Content-Digest"] = sha256_field(body)
        offset, complete = headers.get("Upload-Offset", ""), headers.get("Upload-Complete", "")
        upl = f"{offset};{complete}" if offset or complete else ""
        token = self.token(method, target, headers.get("Content-Digest", ""), upl)
        headers["Authorization"] = f"Bearer {token}"
        return requests.request(method, self.url + target, data=body, headers=headers, timeout=30)


def sha256_field(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def enrolled(server: Server) -> Stranger:
    stranger = Stranger(server.url)
    token = invite(Registry(server.bucket), "h1-amber", now_ns=server.clock())
    body = json.dumps({"token": token, "public_key": stranger.public}).encode()
    assert stranger.send("POST", "/v1/robots/h1-amber/enrol", body).status_code == 201
    return stranger


def test_the_page_is_enough_for_a_resumable_upload(server: Server) -> None:
    stranger = enrolled(server)
    whole = {"Content_Type": "application/vnd.mcap", "Upload_Length": len(BODY), "Repr_Digest": sha256_field(BODY)}
    created = stranger.send("POST", TARGET, BODY[:100], Upload_Complete="?0", **whole)
    assert (created.status_code, created.json()["offset"]) == (201, 100)
    sha256 = hashlib.sha256(BODY).hexdigest()
    name = hashlib.sha256(f"{TARGET}\n{sha256}".encode()).hexdigest()[:32]
    address = f"/v1/robots/h1-amber/uploads/{name}"
    assert created.headers["Location"] == address
    piece = {"Content_Type": "application/partial-upload", "Upload_Offset": 100}
    stranger.send("PATCH", address, BODY[100:200], Upload_Complete="?0", **piece)  # and the reply is lost
    offset = int(stranger.send("HEAD", address).headers["Upload-Offset"])
    assert offset == 200
    last = stranger.send("PATCH", address, BODY[offset:], **{**piece, "Upload_Offset": offset}, Upload_Complete="?1")
    assert (last.status_code, last.headers["Upload-Complete"]) == (201, "?1")
    assert (last.json()["sha256"], last.json()["bytes"]) == (sha256, len(BODY))
    assert stranger.send("HEAD", address).status_code == 404
    assert stranger.send("POST", TARGET, b"", Upload_Complete="?0", **whole).json()["already_stored"]


def test_the_page_is_enough_for_a_gap_and_a_clock(server: Server) -> None:
    stranger = enrolled(server)
    gap = {"first_seq": 42, "last_seq": 44, "start_ns": 1000, "end_ns": 2000, "cause": "evicted"}
    gap |= {"reason": "the disk was full", "size_bytes": 9312844, "counts": {"/head_camera": 600}}
    clock = 'offset-ns=-81250, uncertainty-ns=900000, drift-ppb=140, drift-uncertainty-ppb=20, boot="4b1e"'
    fields = {"Content_Type": "application/vnd.fleetfeed.gap+json", "Fleetfeed_Robot_Clock": clock}
    assert stranger.send("POST", TARGET, json.dumps(gap).encode(), **fields).status_code == 201


def test_the_page_is_enough_for_a_change_of_keys(server: Server) -> None:
    old, new = enrolled(server), Stranger(server.url)
    target = "/v1/robots/h1-amber/keys"
    body = json.dumps({"public_key": new.public, "proof": new.token("POST", target, "")}).encode()
    assert old.send("POST", target, body).status_code == 201
    assert new.send("DELETE", f"{target}/{old.kid}").status_code == 204
    assert new.send("POST", TARGET, BODY, Content_Type="application/vnd.mcap").status_code == 201


def vectors() -> dict[str, str]:
    """The page's table of values, by name."""
    section = PAGE.read_text().partition("## A first upload")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| `(.+)` \|$", section, re.MULTILINE)
    return {name.strip("`"): text for name, text in rows}


def test_the_values_on_the_page_are_what_a_client_computes() -> None:
    told = vectors()
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(told["private key, hex"]))
    public, body = key.public_key().public_bytes_raw(), bytes.fromhex(told["body, hex"])
    assert told["public_key"] == base64.b64encode(public).decode()
    assert told["kid"] == hashlib.sha256(public).hexdigest()[:16]
    assert told["sha256"] == hashlib.sha256(body).hexdigest()
    assert told["Content-Digest"] == sha256_field(body)
    signed = ".".join(base64url(told[name].encode()) for name in ("the token's header", "its claims"))
    assert told["its signature"] == base64url(key.sign(signed.encode()))
    assert told["fld`, of `Content-Type` alone"] == first_half(b"content-type:application/vnd.mcap\n")
    upload = f"{told['target']}\n{told['sha256']}".encode()
    assert told["the id of a resumable upload of it"] == first_half(upload)


def first_half(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_the_server_takes_the_request_that_the_page_computes(server: Server) -> None:
    told = vectors()
    body = bytes.fromhex(told["body, hex"])
    server.clock.offset_ns = 1_760_000_060 * 10**9 - time.time_ns()  # the token's time
    token = invite(Registry(server.bucket), "h1-amber", now_ns=server.clock())
    stranger = Stranger(server.url, told["private key, hex"], now=lambda: server.clock() // 10**9)
    enrolment = json.dumps({"token": token, "public_key": told["public_key"]}).encode()
    assert stranger.send("POST", "/v1/robots/h1-amber/enrol", enrolment).json()["key_id"] == told["kid"]
    claimed = [base64url(told[name].encode()) for name in ("the token's header", "its claims")]
    fields = {"Content-Type": "application/vnd.mcap", "Content-Digest": told["Content-Digest"]}
    fields["Authorization"] = f"Bearer {'.'.join([*claimed, told['its signature']])}"
    answer = requests.post(server.url + told["target"], data=body, headers=fields, timeout=30)
    assert answer.status_code == 201, answer.text
    assert (answer.status_code, answer.json()["key"]) == (201, told["the object"])
    assert answer.json()["sha256"] == told["sha256"]
