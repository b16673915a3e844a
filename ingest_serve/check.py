"""Does this bucket keep what the design stands on: can it be reached, and is an object created only once?"""

from __future__ import annotations

import secrets

from ingest_serve.bucket import Bucket
from ingest_serve.errors import IngestError


def check_create_once(bucket: Bucket) -> str:
    """The probe's key. `IngestError` if a second create of one key was not refused, or changed the object."""
    key = f"probes/{secrets.token_hex(8)}.json"
    if not bucket.create(key, b'{"probe": 1}'):
        raise IngestError(f"creating {key} was refused although it did not exist")
    if bucket.create(key, b'{"probe": 2}'):
        raise IngestError(f"the store created {key} twice: it ignores If-None-Match, and uploads would overwrite")
    found = bucket.read(key)
    if found is None or found[1] != b'{"probe": 1}':
        raise IngestError(f"{key} does not read back as it was written")
    bucket.delete(key)
    return key
