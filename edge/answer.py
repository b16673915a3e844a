"""An answer of the server, taken in within bounds: whatever answers in its place may be endless, or never end.

`requests` limits the time between two bytes alone, so a few bytes a minute would hold a thread for ever.
"""

from __future__ import annotations

import time

import requests
from urllib3.exceptions import HTTPError

MAX_ANSWER_BYTES = 64 << 10  # a receipt or a problem has less than 2 KiB


def read_answer(response: requests.Response, *, limit_s: float) -> requests.Response:
    """The same response, which was asked for with `stream=True`, with its body read.

    Raises `requests.ConnectionError` where the body is not whole within `limit_s`, or larger than any of ours.
    """
    try:
        response._content = _read(response, deadline_s=time.monotonic() + limit_s)
    except (HTTPError, OSError) as error:
        response.close()
        raise requests.ConnectionError(f"the answer was cut off: {error}") from error
    response._content_consumed = True  # type: ignore[attr-defined] # as `Response.content` leaves it
    return response


def _read(response: requests.Response, *, deadline_s: float) -> bytes:
    body = bytearray()
    while chunk := response.raw.read1(MAX_ANSWER_BYTES, decode_content=False):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise OSError(f"it is longer than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline_s:
            raise OSError("it did not end in time")
    if not response.raw.length_remaining:  # None where the answer did not tell its length
        return bytes(body)
    raise OSError(f"{response.raw.length_remaining} bytes are missing")
