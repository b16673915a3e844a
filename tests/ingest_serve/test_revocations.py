"""What was revoked is heard by every replica within seconds, and where that cannot be known nothing is guessed."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataset_catalog.storage import Storage
from edge.signing import key_id, public_bytes
from ingest_serve import revocations
from ingest_serve.bucket import Bucket
from ingest_serve.errors import StorageUnavailable
from ingest_serve.lookups import MAX_AT_ONCE, KeyCache, Lookups
from ingest_serve.registry import Registry, invite
from ingest_serve.revocations import Revocations, RevocationView, key_record, token_record
from ingest_serve.settings import IngestSettings
from ingest_serve.tokens import Tokens
from tests.faults.campaign import is_soak
from tests.faults.storage_proxy import Delay, Hang, StorageProxy
from tests.ingest_serve.conftest import Robot, Server, refusal, serve, wait_until

KEY = public_bytes(Ed25519PrivateKey.generate().public_key())
KID = key_id(KEY)
S = 10**9
NOW_NS = 1_760_000_000 * S
Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


class Steady:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.ns = 1000 * S

    def __call__(self) -> int:
        return self.ns

    def go_on(self, seconds: float) -> None:
        self.ns += int(seconds * S)


class Records:
    """The bucket as the view sees it: its names, how often it was listed, and what befalls a listing."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.listed = 0
        self.befalls: Callable[[], Awaitable[None]] | None = None

    async def names_async(self, prefix: str) -> list[str]:
        assert prefix == "registry/revoked"
        self.listed += 1
        names = list(self.names)
        if self.befalls is not None:
            await self.befalls()
        return names


def a_view(records: Records, clock: Steady, *, max_age_s: float = 10.0) -> RevocationView:
    return RevocationView(records, max_age_s=max_age_s, steady_ns=clock)  # type: ignore[arg-type]


async def fails() -> None:
    raise StorageUnavailable("down")


async def hangs() -> None:
    await asyncio.Event().wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


class TestView:
    def test_it_lists_at_first_then_beside_the_requests_and_waits_only_when_it_is_old(self) -> None:
        async def work() -> None:
            records, clock = Records("g1/a"), Steady()
            view = a_view(records, clock)
            assert await view.revoked() == {"g1/a"}
            records.names.append("g1/b")
            clock.go_on(5)
            assert (await view.revoked(), records.listed) == ({"g1/a"}, 1)
            clock.go_on(0.1)  # past half its age: this answer is still of the old list
            assert await view.revoked() == {"g1/a"}
            await until(lambda: records.listed == 2)
            assert await view.revoked() == {"g1/a", "g1/b"}
            records.names.append("g1/c")
            clock.go_on(10.1)
            assert await view.revoked() == {"g1/a", "g1/b", "g1/c"}
            assert records.listed == 3

        run(work())

    def test_its_age_counts_from_when_the_listing_began(self) -> None:
        async def work() -> None:
            records, clock = Records(), Steady()
            view = a_view(records, clock)

            async def takes_8_s() -> None:
                clock.go_on(8)

            records.befalls = takes_8_s
            await view.revoked()
            records.befalls = None
            records.names.append("g1/a")
            clock.go_on(3)
            assert await view.revoked() == {"g1/a"}

        run(work())

    def test_one_listing_serves_everybody_who_waits(self) -> None:
        async def work() -> None:
            records, clock = Records("g1/a"), Steady()
            go = asyncio.Event()
            records.befalls = go.wait  # type: ignore[assignment]
            view = a_view(records, clock)
            asking = [asyncio.create_task(view.revoked()) for _ in range(50)]
            await until(lambda: records.listed == 1)
            go.set()
            assert await asyncio.gather(*asking) == [{"g1/a"}] * 50
            assert records.listed == 1

        run(work())

    def test_a_listing_that_began_too_early_serves_nobody(self) -> None:
        async def work() -> None:
            records, clock = Records(), Steady()
            go = asyncio.Event()
            records.befalls = go.wait  # type: ignore[assignment]
            view = a_view(records, clock, max_age_s=0)
            early = asyncio.create_task(view.revoked())
            await until(lambda: records.listed == 1)
            records.names.append("g1/a")
            clock.go_on(1)
            late = asyncio.create_task(view.revoked())
            await asyncio.sleep(0)
            go.set()
            await early
            assert (await late, records.listed) == ({"g1/a"}, 2)

        run(work())

    def test_one_who_goes_away_takes_the_listing_from_nobody(self) -> None:
        async def work() -> None:
            records, clock = Records("g1/a"), Steady()
            go = asyncio.Event()
            records.befalls = go.wait  # type: ignore[assignment]
            view = a_view(records, clock)
            gone, waits = (asyncio.create_task(view.revoked()) for _ in range(2))
            await until(lambda: records.listed == 1)
            gone.cancel()
            await asyncio.sleep(0)
            go.set()
            assert (await waits, records.listed) == ({"g1/a"}, 1)

        run(work())

    def test_where_it_cannot_list_it_says_so_once_it_is_old_and_not_before(self) -> None:
        async def work() -> None:
            records, clock = Records("g1/a"), Steady()
            view = a_view(records, clock)
            await view.revoked()
            records.befalls = fails
            clock.go_on(6)
            assert await view.revoked() == {"g1/a"}
            await until(lambda: records.listed == 2)
            clock.go_on(3.9)
            assert await view.revoked() == {"g1/a"}
            clock.go_on(0.2)
            with pytest.raises(StorageUnavailable):
                await view.revoked()
            records.befalls = None
            assert await view.revoked() == {"g1/a"}

        run(work())

    def test_a_listing_that_hangs_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(revocations, "LOOKUP_LIMIT_S", 0.05)

        async def work() -> None:
            records, clock = Records("g1/a"), Steady()
            records.befalls = hangs
            view = a_view(records, clock)
            with pytest.raises(StorageUnavailable, match="did not answer within"):
                await view.revoked()
            records.befalls = None
            clock.go_on(0.05)
            assert await view.revoked() == {"g1/a"}  # though the other listing is still being given up

        run(work())


class Objects:
    """What a look-up finds by name, and how often it was asked."""

    def __init__(self, **found: str) -> None:
        self.found = found
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.befalls: Callable[[], Awaitable[Any]] | None = None

    async def __call__(self, name: str) -> str | None:
        self.asked.append(name)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        found = self.found.get(name)
        try:
            if self.befalls is not None:
                await self.befalls()
        finally:
            self.at_once -= 1
        return found


class TestLookups:
    def test_what_was_found_is_kept_for_an_hour(self) -> None:
        async def work() -> None:
            objects, clock = Objects(a="A"), Steady()
            lookups = Lookups(objects, steady_ns=clock)
            assert [await lookups.find("a") for _ in range(3)] == ["A"] * 3
            clock.go_on(3599)
            assert (await lookups.find("a"), objects.asked) == ("A", ["a"])
            clock.go_on(1)
            assert (await lookups.find("a"), objects.asked) == ("A", ["a", "a"])

        run(work())

    def test_what_is_asked_for_fresh_is_looked_up(self) -> None:
        async def work() -> None:
            objects = Objects(a="A")
            lookups = Lookups(objects, steady_ns=Steady())
            await lookups.find("a")
            objects.found["a"] = "B"
            assert [await lookups.find("a"), await lookups.find_fresh("a")] == ["A", "B"]

        run(work())

    def test_what_nobody_has_is_asked_for_once_a_second(self) -> None:
        async def work() -> None:
            objects, clock = Objects(), Steady()
            lookups = Lookups(objects, steady_ns=clock)
            assert [await lookups.find("a") for _ in range(9)] == [None] * 9
            assert await lookups.find_fresh("a") is None
            assert objects.asked == ["a"]
            clock.go_on(1)
            objects.found["a"] = "A"
            assert await lookups.find("a") == "A"

        run(work())

    def test_what_has_just_been_made_is_found_at_once(self) -> None:
        async def work() -> None:
            objects, go = Objects(), asyncio.Event()
            lookups = Lookups(objects, steady_ns=Steady())
            objects.befalls = go.wait
            before = asyncio.create_task(lookups.find("a"))
            await until(lambda: objects.asked == ["a"])
            objects.found["a"] = "A"
            lookups.forget_absence("a")
            after = asyncio.create_task(lookups.find("a"))
            await until(lambda: objects.asked == ["a", "a"])
            go.set()
            assert (await before, await after) == (None, "A")
            assert await lookups.find("a") == "A"

        run(work())

    def test_many_who_ask_at_once_are_one_look_up_and_many_names_come_in_turn(self) -> None:
        async def work() -> None:
            objects, go = Objects(a="A"), asyncio.Event()
            lookups = Lookups(objects, steady_ns=Steady())
            objects.befalls = go.wait
            same = [asyncio.create_task(lookups.find("a")) for _ in range(50)]
            made_up = [asyncio.create_task(lookups.find(f"b{n}")) for n in range(50)]
            await until(lambda: objects.at_once == MAX_AT_ONCE)
            go.set()
            assert await asyncio.gather(*same) == ["A"] * 50
            assert await asyncio.gather(*made_up) == [None] * 50
            assert (objects.asked.count("a"), objects.most_at_once) == (1, MAX_AT_ONCE)

        run(work())

    def test_a_failure_is_told_to_all_who_wait_and_not_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(revocations, "LOOKUP_LIMIT_S", 0.05)

        async def work() -> None:
            objects = Objects(a="A")
            lookups = Lookups(objects, steady_ns=Steady())
            for befalls in (fails, hangs):
                objects.befalls = befalls
                told = await asyncio.gather(*(lookups.find("a") for _ in range(5)), return_exceptions=True)
                assert [type(one) for one in told] == [StorageUnavailable] * 5
            objects.befalls = None
            assert await lookups.find("a") == "A"

        run(work())

    def test_what_it_keeps_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ingest_serve.lookups.MAX_KEPT", 3)
        monkeypatch.setattr("ingest_serve.lookups.MAX_ABSENT", 3)

        async def work() -> None:
            objects = Objects(**{f"a{n}": "A" for n in range(5)})
            lookups = Lookups(objects, steady_ns=Steady())
            for n in range(5):
                await lookups.find(f"a{n}")
                await lookups.find(f"b{n}")
            assert (list(lookups._kept), list(lookups._absent)) == (["a2", "a3", "a4"], ["b2", "b3", "b4"])

        run(work())


class FailsAt(Bucket):
    """A bucket that is gone the moment something below `prefix` is to be written."""

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        super().__init__(bucket._store, bucket._put)
        self._prefix = prefix

    def create(self, key: str, body: bytes) -> bool:
        self._fail(key)
        return super().create(key, body)

    def overwrite(self, key: str, body: bytes) -> None:
        self._fail(key)
        super().overwrite(key, body)

    def _fail(self, key: str) -> None:
        if key.startswith(self._prefix):
            raise StorageUnavailable(f"{key} cannot be written")


@pytest.fixture
def known(bucket: Bucket) -> Registry:
    """A registry that knows one key."""
    registry = Registry(bucket)
    registry.enrol(invite(registry, "g1-001", now_ns=NOW_NS), robot="g1-001", public_key=KEY, now_ns=NOW_NS)
    return registry


class TestOrder:
    def test_a_key_is_ended_for_good_before_replicas_are_told(self, known: Registry, bucket: Bucket) -> None:
        with pytest.raises(StorageUnavailable):
            Registry(FailsAt(bucket, "registry/revoked")).revoke("g1-001", KID, now_ns=NOW_NS)
        assert known.find_key("g1-001", KID) is None
        assert bucket.names("registry/revoked") == []
        assert known.revoke("g1-001", KID, now_ns=NOW_NS)
        assert bucket.names("registry/revoked") == [key_record("g1-001", KID)]

    def test_replicas_are_not_told_of_a_key_that_goes_on(self, known: Registry, bucket: Bucket) -> None:
        with pytest.raises(StorageUnavailable):
            Registry(FailsAt(bucket, "registry/robots")).revoke("g1-001", KID, now_ns=NOW_NS)
        assert known.find_key("g1-001", KID) is not None
        assert bucket.names("registry/revoked") == []

    def test_nothing_is_ended_that_is_not_written_down(self, known: Registry, bucket: Bucket) -> None:
        with pytest.raises(StorageUnavailable):
            Registry(FailsAt(bucket, "audit")).revoke("g1-001", KID, now_ns=NOW_NS)
        assert known.find_key("g1-001", KID) is not None

    def test_a_token_is_ended_for_good_before_replicas_are_told(self, bucket: Bucket) -> None:
        token, _ = Tokens(bucket).create("Ada", scopes=["read"], now_ns=NOW_NS)
        with pytest.raises(StorageUnavailable):
            Tokens(FailsAt(bucket, "registry/revoked")).revoke(token.token_id, now_ns=NOW_NS)
        found = Tokens(bucket).find(token.token_id)
        assert found is not None
        assert found.revoked_ns == NOW_NS
        assert Tokens(bucket).revoke(token.token_id, now_ns=NOW_NS + 1)
        assert bucket.names("registry/revoked") == [token_record(token.token_id)]
        assert Tokens(bucket).find(token.token_id) == found

    def test_a_key_that_is_kept_is_refused_by_its_record_and_one_looked_up_later_by_itself(
        self, known: Registry, bucket: Bucket
    ) -> None:
        async def work() -> None:
            clock = Steady()
            cache = KeyCache(known, RevocationView(bucket, max_age_s=10, steady_ns=clock), steady_ns=clock)
            assert await cache.find("g1-001", KID) is not None
            await asyncio.to_thread(known.revoke, "g1-001", KID, now_ns=NOW_NS)
            assert await cache.find("g1-001", KID) is not None  # for as long as its view is trusted
            clock.go_on(10.1)
            assert await cache.find("g1-001", KID) is None
            bucket.delete(f"{revocations.PREFIX}/g1-001/{KID}")
            clock.go_on(3600)
            assert await cache.find("g1-001", KID) is None

        run(work())


@pytest.mark.parametrize("kid", ["", "../x", "0123456789ABCDEF", "0" * 17, "a/b"])
def test_what_is_no_key_id_never_becomes_a_path(kid: str) -> None:
    cache = KeyCache(Registry(None), a_view(Records(), Steady()))  # type: ignore[arg-type]
    assert run(cache.find("g1-001", kid)) is None
    assert run(cache.find_fresh("g1-001", kid)) is None


def test_old_records_go_by_the_bucket_s_clock(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Revocations(bucket)
    records.add("g1-001/0123456789abcdef", now_ns=0)
    monkeypatch.setattr("time.time_ns", lambda: 2**62)  # this machine's is not asked
    assert records.expire() == 0
    assert bucket.names("probes") == []


# -- two replicas over one lake ---------------------------------------------------------------------------------------


class Replicas:
    """Two servers of one lake, perhaps with an S3 of their own that misbehaves, and a robot that uploads to both."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.robot = servers[0].new_robot()
        self.seq = 0
        self.last_taken = 0.0  # when the last upload that was taken was asked for, by the steady clock

    def upload(self) -> list[tuple[int, str]]:
        """The answer of each replica to a segment of its own."""
        return [self._upload(server) for server in self.servers]

    def _upload(self, server: Server) -> tuple[int, str]:
        self.seq += 1
        asked = time.monotonic()
        robot = Robot(server, self.robot.name, self.robot.key)
        response = robot.send(robot.upload(seq=self.seq))
        if response.status_code != 201:
            return refusal(response)
        self.last_taken = asked
        return 201, ""

    def stored(self) -> int:
        return len(self.servers[0].bucket.names("raw"))


@pytest.fixture
def replicas(storage: Storage) -> Iterator[Replicas]:
    key_cache_s = 10.0 if is_soak() else 0.4
    with ExitStack() as stack:
        both = [stack.enter_context(serve(storage, IngestSettings(key_cache_s=key_cache_s))) for _ in range(2)]
        yield Replicas(both)


REFUSED = [(401, "unknown_key")] * 2
TAKEN = [(201, "")] * 2
WITHIN_S = 15.0


class TestTwoReplicas:
    def test_a_revoked_key_is_refused_by_both_and_stays_refused(self, replicas: Replicas, bucket: Bucket) -> None:
        assert replicas.upload() == TAKEN
        assert Registry(bucket).revoke(replicas.robot.name, replicas.robot.kid, now_ns=1)
        wait_until(lambda: replicas.upload() == REFUSED, limit_s=WITHIN_S)
        stored = replicas.stored()
        assert [replicas.upload() for _ in range(10)] == [REFUSED] * 10
        assert replicas.stored() == stored

    def test_the_clocks_of_the_replicas_do_not_matter(self, replicas: Replicas, bucket: Bucket) -> None:
        assert replicas.upload() == TAKEN
        replicas.servers[0].clock.offset_ns = -3 * 3600 * S
        replicas.servers[1].clock.offset_ns = 3 * 3600 * S
        assert Registry(bucket).revoke(replicas.robot.name, replicas.robot.kid, now_ns=1)
        wait_until(lambda: replicas.upload() == REFUSED, limit_s=WITHIN_S)

    def test_a_new_invitation_lets_the_robot_in_again_with_a_new_key_only(
        self, replicas: Replicas, bucket: Bucket
    ) -> None:
        registry, old = Registry(bucket), replicas.robot
        assert registry.revoke_robot(old.name, now_ns=1) is not None
        wait_until(lambda: replicas.upload() == REFUSED, limit_s=WITHIN_S)
        token = invite(registry, old.name, now_ns=time.time_ns())
        assert refusal(old.enrol(token)) == (409, "key_retired")
        new = Robot(old.server, old.name, Ed25519PrivateKey.generate())
        assert new.enrol(token).status_code == 201
        replicas.robot = new
        assert replicas.upload() == TAKEN

    def test_a_body_that_is_still_coming_when_its_key_is_revoked_is_not_stored(
        self, replicas: Replicas, bucket: Bucket
    ) -> None:
        assert replicas.upload() == TAKEN
        slow = SlowUpload(Robot(replicas.servers[0], replicas.robot.name, replicas.robot.key), seq=1000)
        assert Registry(bucket).revoke(replicas.robot.name, replicas.robot.kid, now_ns=1)
        wait_until(lambda: replicas.upload() == REFUSED, limit_s=WITHIN_S)
        stored = replicas.stored()
        assert slow.finish() == 401
        assert replicas.stored() == stored


class SlowUpload:
    """An upload whose signature was checked, and whose body is half there."""

    def __init__(self, robot: Robot, *, seq: int) -> None:
        upload = robot.upload(seq=seq)
        self._rest = upload.body[20:]
        self._link = http.client.HTTPConnection(*robot.server.address, timeout=30)
        self._link.putrequest("POST", upload.target)
        for name, value in {**upload.headers, "Content-Length": str(len(upload.body))}.items():
            self._link.putheader(name, value)
        self._link.endheaders(upload.body[:20])

    def finish(self) -> int:
        self._link.send(self._rest)
        status = self._link.getresponse().status
        self._link.close()
        return status


class TestBadStorage:
    """Reads of the registry go wrong; what was revoked meanwhile is refused, or nobody is let in at all."""

    @pytest.fixture
    def proxy(self, s3_endpoint: str) -> Iterator[StorageProxy]:
        with StorageProxy(s3_endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def behind(self, storage: Storage, proxy: StorageProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replicas]:
        if not is_soak():
            monkeypatch.setattr(revocations, "LOOKUP_LIMIT_S", 0.5)
        settings = storage.settings.model_copy(update={"endpoint_url": proxy.url})
        key_cache_s = 10.0 if is_soak() else 0.4
        with ExitStack() as stack:
            both = [
                stack.enter_context(serve(Storage(storage.url, settings), IngestSettings(key_cache_s=key_cache_s)))
                for _ in range(2)
            ]
            yield Replicas(both)

    @pytest.mark.parametrize("fault", [Hang(), Delay(60)], ids=["dead", "slow"])
    def test_a_revocation_that_cannot_be_heard_lets_nobody_in(
        self, behind: Replicas, proxy: StorageProxy, bucket: Bucket, fault: Hang | Delay
    ) -> None:
        assert behind.upload() == TAKEN
        proxy.schedule = lambda asked: fault if "registry" in asked.key + asked.query else None
        assert Registry(bucket).revoke(behind.robot.name, behind.robot.kid, now_ns=1)
        revoked = time.monotonic()
        unavailable = [(503, "storage_unavailable")] * 2
        wait_until(lambda: behind.upload() == unavailable, limit_s=WITHIN_S + 10)
        stored = len(bucket.names("raw"))
        assert behind.upload() == unavailable
        assert behind.last_taken < revoked + WITHIN_S
        proxy.heal()
        wait_until(lambda: behind.upload() == REFUSED, limit_s=WITHIN_S)
        assert len(bucket.names("raw")) == stored

    def test_a_key_that_counts_works_again_when_the_registry_can_be_read(
        self, behind: Replicas, proxy: StorageProxy
    ) -> None:
        assert behind.upload() == TAKEN
        proxy.schedule = lambda asked: Hang() if "registry" in asked.key + asked.query else None
        wait_until(lambda: behind.upload() == [(503, "storage_unavailable")] * 2, limit_s=WITHIN_S + 10)
        proxy.heal()
        wait_until(lambda: behind.upload() == TAKEN, limit_s=WITHIN_S)

    def test_a_storage_that_only_lists_a_little_late_keeps_nobody_out(
        self, behind: Replicas, proxy: StorageProxy
    ) -> None:
        assert behind.upload() == TAKEN
        proxy.schedule = lambda asked: Delay(0.2) if "registry" in asked.query else None
        assert [behind.upload() for _ in range(5)] == [TAKEN] * 5


def test_a_flood_of_uploads_is_one_listing_and_one_look_up(storage: Storage, s3_endpoint: str) -> None:
    with StorageProxy(s3_endpoint) as proxy:
        settings = storage.settings.model_copy(update={"endpoint_url": proxy.url})
        with serve(Storage(storage.url, settings), IngestSettings(key_cache_s=3600)) as server:
            robot = server.new_robot()
            before = len(proxy.seen)
            assert all(robot.send(robot.upload(seq=n)).status_code == 201 for n in range(20))
            asked = [seen.asked for seen in proxy.seen[before:]]
    assert sum("registry" in one.query for one in asked) == 1
    assert sum("registry/robots" in one.key for one in asked) == 1
