"""Signed as AWS documents it, and as botocore signs, whatever is in the fields."""

from __future__ import annotations

import calendar
import hashlib
import time
from typing import Any
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from ingest_serve.s3_keys import S3Key
from ingest_serve.sigv4 import sign

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY = S3Key(KEY_ID, SECRET)

texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)
names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
paths = st.lists(st.text("abcXYZ019._- ~'()+=&é", min_size=1, max_size=12), min_size=1, max_size=4)


def test_the_signature_of_aws_s_own_example_comes_out() -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, example: PUT object."""
    sha256 = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    fields = {
        "date": "Fri, 24 May 2013 00:00:00 GMT",
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    now_s = calendar.timegm((2013, 5, 24, 0, 0, 0))

    signed = sign("PUT", "/test%24file.text", fields, key=KEY, region="us-east-1", body_sha256=sha256, now_s=now_s)

    assert signed["authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class, "
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


@given(
    parts=paths,
    metadata=st.dictionaries(names, texts, max_size=5),
    body=st.binary(max_size=50),
    session=st.sampled_from([None, "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQD="]),
)
def test_botocore_signs_the_same(parts: list[str], metadata: dict[str, str], body: bytes, session: str | None) -> None:
    path = "/" + quote("/".join(parts), safe="/-_.~")
    fields = {f"x-amz-meta-{name}": value for name, value in metadata.items()} | {"if-none-match": "*"}
    theirs: Any = AWSRequest("PUT", f"http://127.0.0.1:8333{path}", headers=fields, data=body)
    S3SigV4Auth(Credentials(KEY_ID, SECRET, session), "s3", "us-east-1").add_auth(theirs)
    now_s = calendar.timegm(time.strptime(theirs.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))

    ours = sign(
        "PUT",
        path,
        {**fields, "host": "127.0.0.1:8333"},
        key=S3Key(KEY_ID, SECRET, session),
        region="us-east-1",
        body_sha256=theirs.headers["X-Amz-Content-SHA256"],
        now_s=now_s,
    )

    assert ours["authorization"] == theirs.headers["Authorization"]
    assert ours.get("x-amz-security-token") == theirs.headers.get("X-Amz-Security-Token") == session


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(KEY)
