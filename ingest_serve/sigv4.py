"""AWS Signature Version 4 for requests whose body's SHA-256 is already known.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from functools import lru_cache

from ingest_serve.s3_keys import S3Key

SERVICE = "s3"


def sign(
    method: str, path: str, fields: Mapping[str, str], *, key: S3Key, region: str, body_sha256: str, now_s: float
) -> dict[str, str]:
    """`fields` with those that make it a signed request; every one of them is signed.

    `path` as it is sent, percent-encoded once; names in lower case, `host` among them; `body_sha256` in hex.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    signed = {**fields, "x-amz-content-sha256": body_sha256, "x-amz-date": stamp}
    if key.session is not None:
        signed["x-amz-security-token"] = key.session
    names = sorted(signed)
    lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in names)
    listed = ";".join(names)
    request = f"{method}\n{path}\n\n{lines}\n{listed}\n{body_sha256}"
    scope = f"{stamp[:8]}/{region}/{SERVICE}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(_day_key(key.secret, stamp[:8], region), text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key.id}/{scope}, SignedHeaders={listed}, Signature={signature}"
    )
    return signed


@lru_cache(maxsize=4)
def _day_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
