"""The bad S3 does to a request what it was told, to that one alone, and passes the others on byte for byte."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
from obstore.store import S3Store

from tests.faults.storage_proxy import (
    CONFLICT,
    FORBIDDEN,
    INTERNAL_ERROR,
    PRECONDITION_FAILED,
    SLOW_DOWN,
    Asked,
    Cut,
    CutBefore,
    Delay,
    Fault,
    Flip,
    FlipAnswer,
    Hang,
    Lie,
    LoseAnswer,
    SayError,
    StorageProxy,
    Throttle,
    Truncate,
    shares,
)
from tests.ingest_serve.conftest import wait_until

BODY = random.Random(7).randbytes(200_000)
FACTS = {"sha256": hashlib.sha256(BODY).hexdigest()}


def store(endpoint: str, *, timeout_s: float = 5.0) -> Any:
    return S3Store(
        "fleetfeed",
        prefix="storage-proxy",
        endpoint=endpoint,
        access_key_id="test",
        secret_access_key="test-secret",
        region="us-east-1",
        checksum_algorithm="SHA256",
        client_options={"allow_http": True, "timeout": f"{timeout_s}s"},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
    )


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[StorageProxy]:
    with StorageProxy(s3_endpoint) as one:
        yield one


@pytest.fixture
def behind(s3_endpoint: str) -> Any:
    """What S3 itself holds."""
    return store(s3_endpoint)


def put(proxy: StorageProxy, key: str, fault: Fault | None = None, *, timeout_s: float = 5.0) -> None:
    proxy.schedule = lambda asked: fault if asked.method == "PUT" else None
    obstore.put(store(proxy.url, timeout_s=timeout_s), key, BODY, mode="create", attributes=FACTS)


def is_stored(behind: Any, key: str) -> bool:
    try:
        return bytes(obstore.get(behind, key).bytes()) == BODY
    except FileNotFoundError:
        return False


def test_what_is_passed_on_is_the_same(proxy: StorageProxy, behind: Any) -> None:
    put(proxy, "same")
    assert is_stored(behind, "same")
    through = store(proxy.url)
    found = obstore.get(through, "same")
    assert (bytes(found.bytes()), found.attributes["sha256"]) == (BODY, FACTS["sha256"])
    assert obstore.head(through, "same")["size"] == len(BODY)
    assert [meta["path"] for chunk in obstore.list(through, "") for meta in chunk] == ["same"]
    obstore.delete(through, ["same"])
    assert not is_stored(behind, "same")
    assert [one.asked.method for one in proxy.seen] == ["PUT", "GET", "HEAD", "GET", "POST"]
    assert {one.asked.key for one in proxy.seen[:3]} == {"storage-proxy/same"}
    assert [one.status for one in proxy.seen] == [200] * 5


@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (SLOW_DOWN, False),
        (INTERNAL_ERROR, False),
        (CutBefore(), False),
        (Cut(0.0), False),
        (Cut(0.5), False),
        (Truncate(0.5), False),
        (LoseAnswer(), True),
        (SayError(INTERNAL_ERROR), True),
    ],
    ids=str,
)
def test_a_fault_is_an_error_to_the_client(proxy: StorageProxy, behind: Any, fault: Fault, stored: bool) -> None:
    key = f"fault-{fault}"
    with pytest.raises(BaseError):
        put(proxy, key, fault)
    assert is_stored(behind, key) is stored
    assert proxy.seen[-1].fault == fault


@pytest.mark.parametrize(
    ("fault", "error"),
    [(CONFLICT, AlreadyExistsError), (PRECONDITION_FAILED, AlreadyExistsError), (FORBIDDEN, PermissionDeniedError)],
    ids=str,
)
def test_an_answer_is_made_up(proxy: StorageProxy, behind: Any, fault: Fault, error: type[Exception]) -> None:
    with pytest.raises(error):
        put(proxy, f"made-up-{error.__name__}", fault)
    assert not is_stored(behind, f"made-up-{error.__name__}")


@pytest.mark.parametrize("fault", [Delay(0.2), Throttle(1_000_000.0)], ids=str)
def test_a_slow_one_is_slow_and_whole(proxy: StorageProxy, behind: Any, fault: Fault) -> None:
    began = time.monotonic()
    put(proxy, f"slow-{type(fault).__name__}", fault)
    assert time.monotonic() - began >= 0.2
    assert is_stored(behind, f"slow-{type(fault).__name__}")


def test_a_lie_stores_nothing(proxy: StorageProxy, behind: Any) -> None:
    put(proxy, "lie", Lie())
    assert not is_stored(behind, "lie")


def test_what_hangs_ends_when_the_client_goes_or_the_storage_heals(proxy: StorageProxy, behind: Any) -> None:
    with pytest.raises(BaseError, match=r"(?i)time"):
        put(proxy, "hangs", Hang(), timeout_s=0.2)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            put(proxy, "hangs", Hang(), timeout_s=60)
        except BaseError as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: len(proxy.seen) == 2, limit_s=5)
    proxy.heal()
    waiting.join(5)
    assert len(ended) == 1
    assert not is_stored(behind, "hangs")
    put(proxy, "hangs")
    assert is_stored(behind, "hangs")


def test_who_is_down_refuses_and_comes_back_at_the_same_address(proxy: StorageProxy, behind: Any) -> None:
    proxy.refuse()
    with pytest.raises(BaseError, match=r"(?i)connect"):
        put(proxy, "down")
    assert proxy.seen == []
    proxy.heal()
    put(proxy, "down")
    assert is_stored(behind, "down")


def test_a_flipped_bit_is_in_its_place(proxy: StorageProxy, behind: Any) -> None:
    with pytest.raises(BaseError):
        put(proxy, "flip", Flip(1 << 30, 3))  # beyond the end: the body's last byte
    assert not is_stored(behind, "flip")
    put(proxy, "flip")
    proxy.schedule = lambda _: FlipAnswer(1 << 30, 0)
    came = bytes(obstore.get(store(proxy.url), "flip").bytes())
    assert came == BODY[:-1] + bytes([BODY[-1] ^ 1])


def test_a_schedule_depends_on_its_seed_and_the_request_alone() -> None:
    faults = {SLOW_DOWN: 0.2, LoseAnswer(): 0.1}
    asked = [Asked("PUT", f"raw/{n % 100}", "", 1, n // 100) for n in range(2_000)]
    first = {one: shares(1, faults)(one) for one in asked}
    again = shares(1, faults)
    assert {one: again(one) for one in reversed(asked)} == first
    assert {one: shares(2, faults)(one) for one in asked} != first
    drawn = list(first.values())
    assert 0.17 < drawn.count(SLOW_DOWN) / len(drawn) < 0.23
    assert 0.08 < drawn.count(LoseAnswer()) / len(drawn) < 0.12
    assert set(map(shares(1, {SLOW_DOWN: 1.0}, only=lambda one: one.key == "raw/1"), asked)) == {None, SLOW_DOWN}
