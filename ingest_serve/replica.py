"""What the handlers of one replica share: the bucket, the keys, the bounds, and the last step of every upload."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dataset_catalog.storage import Storage
from edge.wire import GAP_TYPE, Receipt, SegmentId
from ingest_serve.arrivals import Arrivals
from ingest_serve.body import check_form, check_gap
from ingest_serve.bucket import Bucket, Value, within
from ingest_serve.chunks import Body
from ingest_serve.errors import Refused
from ingest_serve.in_flight import InFlight
from ingest_serve.lookups import ABSENT_S, KeyCache, TokenCache
from ingest_serve.people import Person, check_person
from ingest_serve.pieces import Pieces
from ingest_serve.raw_store import AlreadyStored, Conflict, RawObject, RawStore, Stored
from ingest_serve.registry import Registry
from ingest_serve.revocations import RevocationView
from ingest_serve.settings import IngestSettings
from ingest_serve.signature import check_robot_signature
from ingest_serve.tokens import Tokens

log = logging.getLogger(__name__)

Clock = Callable[[], int]


class Replica:
    """One process's share of the service. The bucket is the only state; what is kept here may be lost."""

    def __init__(self, storage: Storage, settings: IngestSettings, clock: Clock) -> None:
        self.storage = storage
        self.bucket = bucket = Bucket.open(storage)
        self.store = RawStore(bucket)
        self.pieces = Pieces(bucket)
        self.registry = Registry(bucket)
        self.tokens = Tokens(bucket)
        self.arrivals = Arrivals(bucket, clock=clock)
        self.in_flight = InFlight(settings.bounds())
        self.settings = settings
        self.clock = clock
        view, absent_s = RevocationView(bucket, max_age_s=settings.key_cache_s), min(ABSENT_S, settings.key_cache_s)
        self.keys = KeyCache(self.registry, view, absent_s=absent_s)
        self._people = TokenCache(self.tokens, view, absent_s=absent_s)

    async def signer(self, request: Request, robot: str, *, digest: str) -> str:
        """The id of the robot's key that signed this very request, whose `Content-Digest` field is `digest`."""
        return await check_robot_signature(request, self.keys.find, robot=robot, digest=digest, now_ns=self.clock())

    async def person(self, request: Request, scope: str = "read") -> Person:
        """The person whose token the request carries. `Refused` unless it counts and has the scope."""
        return await check_person(request, self._people, scope=scope, now_ns=self.clock())

    async def store_whole(self, raw: RawObject, body: Body) -> Response:
        """Store a verified body once and answer with its receipt. `Refused` if it may not stand under its name.

        Its key may have been revoked while the body came.
        """
        await self.keys.check(raw.segment.robot, raw.key_id)
        check_form(body, raw.content_type)
        if raw.content_type == GAP_TYPE:
            check_gap(body, seq=raw.segment.seq, start_ns=raw.start_ns, end_ns=raw.end_ns)
        outcome = await self.stored(self.store.put_once(raw, body))
        return self.receipt(outcome, raw.segment, sha256=raw.sha256)

    async def stored(self, storing: Awaitable[Value]) -> Value:
        """What a write to the bucket came to. `StorageUnavailable` after `storage_timeout_s`: done perhaps, or not."""
        return await within(self.settings.storage_timeout_s, storing)

    def receipt(self, outcome: Stored | AlreadyStored | Conflict, segment: SegmentId, *, sha256: str) -> Response:
        """201 or 200 with a receipt; `Refused("conflict")` where other bytes are stored."""
        if isinstance(outcome, Conflict):
            log.warning("conflict: %s is stored as %s, now came %s", segment.key, outcome.stored_sha256, sha256)
            detail = f"{segment.key} is stored with other bytes"
            raise Refused("conflict", detail, stored_sha256=outcome.stored_sha256)
        self.arrivals.note(segment)  # also again: the first hint may have gone with another replica
        already = isinstance(outcome, AlreadyStored)
        receipt = Receipt(segment.key, sha256, outcome.raw.bytes, self.clock(), already)
        return JSONResponse(receipt.as_json(), 200 if already else 201)
