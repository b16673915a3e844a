"""The routes by which a robot's keys begin and cease to count: enrolment, a new key, an old one's retirement."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge.errors import SignatureError
from edge.signing import verify_request
from edge.wire import check_robot
from ingest_serve.audit import Actor
from ingest_serve.body import read_body
from ingest_serve.declared import declared_digest, declared_length
from ingest_serve.enrolment import MAX_ENROLMENT_BYTES, NewKey, parse_enrolment, parse_new_key
from ingest_serve.errors import Refused
from ingest_serve.people import is_persons
from ingest_serve.registry import Enrolled
from ingest_serve.replica import Replica
from ingest_serve.signature import bearer_token, check_robot_signature, check_signature, signed_digest, signed_target

BODY_TIMEOUT_S = 5.0  # for a body of 4 KiB: whoever is slower holds one of the replica's places without a key


class Keys:
    """The handlers of a robot's keys."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._registry = replica.registry

    async def enrol(self, request: Request, robot: str) -> Response:
        """Trade a one-time token for a known key. 201: the key counts from now on; 200: it was known."""
        check_robot(robot)
        length = declared_length(request, max_bytes=MAX_ENROLMENT_BYTES)
        digest, sha256 = declared_digest(request)
        bearer_token(request)  # nobody waits for a body that comes without one
        asked = parse_enrolment(await read_body(request, length=length, sha256=sha256, timeout_s=BODY_TIMEOUT_S))
        check_signature(request, asked.key, robot=robot, digest=digest, now_ns=self._replica.clock())
        enrolled = await asyncio.to_thread(
            self._registry.enrol, asked.token, robot=robot, public_key=asked.public_key, now_ns=self._replica.clock()
        )
        return self._known(enrolled)

    async def add(self, request: Request, robot: str) -> Response:
        """Let a new key count beside the one that signs. 201: it does from now on; 200: it did already."""
        check_robot(robot)
        length = declared_length(request, max_bytes=MAX_ENROLMENT_BYTES)
        digest, sha256 = declared_digest(request)
        signer = await self._signer(request, robot, digest=digest)
        asked = parse_new_key(await read_body(request, length=length, sha256=sha256, timeout_s=BODY_TIMEOUT_S))
        _check_proof(request, asked, robot=robot, now_ns=self._replica.clock())
        added = await asyncio.to_thread(
            self._registry.add_key, robot, asked.public_key, signed_by=signer, now_ns=self._replica.clock()
        )
        return self._known(added)

    async def retire(self, request: Request, robot: str, kid: str) -> Response:
        """Let one of the robot's other keys count no longer. 204: it does not, perhaps since before.

        Another key of the robot signs it, or a person does it with an admin token.
        """
        check_robot(robot)
        actor = await self._who_retires(request, robot, kid)
        if not await asyncio.to_thread(self._registry.revoke, robot, kid, now_ns=self._replica.clock(), actor=actor):
            raise Refused("unknown_key_id", f"robot {robot!r} never had a key {kid[:80]!r}")
        return Response(status_code=204)

    async def _who_retires(self, request: Request, robot: str, kid: str) -> Actor:
        if is_persons(bearer_token(request)):
            return (await self._replica.person(request, scope="admin")).as_actor()
        signer = await self._signer(request, robot, digest=signed_digest(request))
        if kid == signer:
            raise Refused("key_in_use", f"key {kid} has signed this request; only another key can retire it")
        return Actor("robot", signer, robot)

    async def _signer(self, request: Request, robot: str, *, digest: str) -> str:
        """As the registry knows the key now: a retired one must not let another one in."""
        find, now_ns = self._replica.keys.find_fresh, self._replica.clock()
        return await check_robot_signature(request, find, robot=robot, digest=digest, now_ns=now_ns)

    def _known(self, enrolled: Enrolled) -> Response:
        self._replica.keys.forget_absence(enrolled.robot, enrolled.key_id)
        body = {"robot": enrolled.robot, "key_id": enrolled.key_id}
        return JSONResponse(body, 201 if enrolled.is_new else 200)


def _check_proof(request: Request, asked: NewKey, *, robot: str, now_ns: int) -> None:
    """The robot holds the new key: it has signed this request too, without the body, of which the proof is a part."""
    target = signed_target(request)
    try:
        verify_request(
            asked.proof, lambda: asked.key, robot=robot, method=request.method, target=target, digest="", now_ns=now_ns
        )
    except SignatureError as error:
        if error.code == "clock":
            raise
        raise Refused("bad_new_key", f"the proof does not fit: {error}") from error
