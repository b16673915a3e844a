"""Whose request it is: the bearer token against the registry's keys, before anything of the body is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.requests import Request

from edge.signing import Token, fields_claim, upload_claim, verify_token
from edge.wire import UPLOAD_COMPLETE_HEADER, UPLOAD_OFFSET_HEADER
from ingest_serve.errors import Refused

FindKey = Callable[[str, str], Awaitable[Ed25519PublicKey | None]]


async def check_robot_signature(request: Request, find_key: FindKey, *, robot: str, digest: str, now_ns: int) -> str:
    """The id of the robot's key that signed this very request. `Refused` or `SignatureError` otherwise."""
    token = Token.parse(bearer_token(request))
    if token.claims.get("sub") != robot:  # its key would only be unknown under this one's name
        raise Refused("wrong_robot", f"the token is another robot's, the route is that of {robot!r}")
    key = await find_key(robot, token.kid)
    if key is None:
        raise Refused("unknown_key", f"robot {robot!r} has no key {token.kid[:80]!r}")
    _check(token, request, key, robot=robot, digest=digest, now_ns=now_ns)
    return token.kid


def check_signature(request: Request, key: Ed25519PublicKey, *, robot: str, digest: str, now_ns: int) -> None:
    """`SignatureError` unless the holder of `key` made the token for this very request."""
    _check(Token.parse(bearer_token(request)), request, key, robot=robot, digest=digest, now_ns=now_ns)


def _check(token: Token, request: Request, key: Ed25519PublicKey, *, robot: str, digest: str, now_ns: int) -> None:
    verify_token(
        token,
        key,
        robot=robot,
        method=request.method,
        target=signed_target(request),
        digest=digest,
        now_ns=now_ns,
        upload=signed_upload(request),
        fields=fields_claim(request.headers),
    )


def bearer_token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refused("no_token", "the request needs Authorization: Bearer <token>")
    return token


def signed_target(request: Request) -> str:
    """Path and query byte for byte as the client sent them."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def signed_digest(request: Request) -> str:
    """The `Content-Digest` field as it came, "" for a request without."""
    return request.headers.get("content-digest", "")


def signed_upload(request: Request) -> str:
    """Where a piece goes and whether it is the last, as the token must say it."""
    headers = request.headers
    return upload_claim(headers.get(UPLOAD_OFFSET_HEADER, ""), headers.get(UPLOAD_COMPLETE_HEADER, ""))
