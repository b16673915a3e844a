"""A chain like a dataset's, runs that each publish one version of it, and what every version must hold.

Run n adds episode n to three tables, and aligns episode n - 1 again: its old rows go. What a version holds follows
from its number alone, whoever published it and whatever died on the way.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from typing import Any

import lance
import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.errors import CommitLost, VersionConflict
from dataset_catalog.publish import Written
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest
from tests.faults.storage_proxy import Asked, Exchange, Fault, StorageProxy

CHAIN = "datasets/killed"
TABLES = ("steps", "gops", "episodes")
SCHEMA = pa.schema([("episode_id", pa.string()), ("run", pa.int64()), ("row", pa.int64())])
ROWS = 4  # of an episode in each table, in two fragments
LIMIT_S = 60.0
WRITES = ("PUT", "POST", "DELETE")
LOST = 3  # the exit code of a run that another one was faster than
_spawning = multiprocessing.get_context("forkserver")
_spawning.set_forkserver_preload([__name__])

Contents = dict[str, Counter[tuple[str, int, int]]]  # table → (episode, run, row) → how often it is there


def expected(n: int) -> Contents:
    """What version n holds: the last episode as it was aligned first, each before it as the next run aligned it."""
    made_by = {f"e{number}": min(number + 1, n) for number in range(1, n + 1)}
    rows = Counter((episode, run, row) for episode, run in made_by.items() for row in range(ROWS))
    return dict.fromkeys(TABLES, rows)


def contents(storage: Storage, n: int) -> Contents:
    """What version n holds indeed, by the Lance versions that its manifest names."""
    manifest = versions.read(storage, CHAIN, n)
    opened = {table: open_table(storage, CHAIN, manifest, table).to_table() for table in TABLES}
    return {name: Counter(zip(*table.to_pydict().values(), strict=True)) for name, table in opened.items()}


def newest_n(storage: Storage) -> int:
    numbers = versions.list_versions(storage, CHAIN)
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    return len(numbers)


class Chain:
    """The versions of one lake, each as it was when it was seen first."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._seen: list[Manifest] = []

    def check(self) -> int:
        """Every version that was ever published reads as it must, and is the one it was; the number of the newest."""
        newest = newest_n(self._storage)
        found = [versions.read(self._storage, CHAIN, n) for n in range(1, newest + 1)]
        assert found[: len(self._seen)] == self._seen, "a version that was published is another now"
        self._seen = found
        for n in range(1, newest + 1):
            assert contents(self._storage, n) == expected(n), f"version {n} of {newest}"
        return newest


def check_tags(storage: Storage) -> None:
    """Every version has its tag. A run that dies may leave the newest without it; the next run makes good for it."""
    uri = versions.table_uri(storage, CHAIN, "steps")
    found = lance.dataset(uri, storage_options=storage.lance_options()).tags.list()
    named = {f"v{n}": versions.read(storage, CHAIN, n).tables["steps"] for n in versions.list_versions(storage, CHAIN)}
    assert {name: tag["version"] for name, tag in found.items()} == named


def run_once(storage: Storage) -> int:
    """One run, as a job does it: the number that it published. Raises as `publish.commit`."""
    manifest = versions.newest(storage, CHAIN)
    if manifest is not None:
        publish.tag(storage, CHAIN, manifest)
    base = publish.begin(storage, CHAIN, planned_on=manifest, schemas=dict.fromkeys(TABLES, SCHEMA))
    n = base.next_n
    written = {table: _write(storage, table, n) for table in TABLES}
    gone = f"episode_id = 'e{n - 1}'"
    return publish.commit(base, written, positions={"segments": n}, gone=gone, now_ns=n).n


def _write(storage: Storage, table: str, n: int) -> Written:
    episodes = [f"e{n}"] if n == 1 else [f"e{n - 1}", f"e{n}"]
    return Written.join(
        publish.write(storage, CHAIN, table, SCHEMA, [_batch(episodes, n, rows)])
        for rows in (range(ROWS // 2), range(ROWS // 2, ROWS))
    )


def _batch(episodes: list[str], n: int, rows: range) -> pa.RecordBatch:
    found = [{"episode_id": episode, "run": n, "row": row} for episode in episodes for row in rows]
    return pa.RecordBatch.from_pylist(found, schema=SCHEMA)


# -- in a process of its own ---------------------------------------------------------------------------------------


class Driver:
    """`times` runs in a process of their own, that reach S3 at `endpoint`."""

    def __init__(self, storage: Storage, endpoint: str, *, times: int = 1) -> None:
        behind = replace(storage, settings=storage.settings.model_copy(update={"endpoint_url": endpoint}))
        self._process: ForkServerProcess = _spawning.Process(target=_drive, args=(behind, times), daemon=True)
        self._process.start()

    def signal(self, number: int) -> None:
        pid = self._process.pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def wait(self) -> int:
        """Its exit code: 0, `LOST`, or the negative number of the signal that ended it."""
        self._process.join(LIMIT_S)
        code = self._process.exitcode
        if code is None:
            self.signal(signal.SIGKILL)
            self._process.join()
            raise RuntimeError(f"a run has not ended within {LIMIT_S:.0f} s")
        return code


def _drive(storage: Storage, times: int) -> None:
    """Ends with `LOST` where each of the runs was fenced off or came second."""
    published = 0
    for _ in range(times):
        with suppress(CommitLost, VersionConflict):
            published = run_once(storage)
    os._exit(0 if published else LOST)  # without Lance's and s3fs's threads, which may wait for a proxy that is gone


# -- at one of its writes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """The run is killed at a write: before S3 hears of it, or after it was done."""

    kill: Callable[[], Any]
    after: bool

    async def play(self, exchange: Exchange) -> None:
        body = await exchange.body()
        if not self.after:
            self.kill()
            exchange.reset()
            return
        await exchange.send(exchange.head, body)
        answer = await exchange.answer()
        self.kill()
        await exchange.reply(*answer)


@dataclass(frozen=True)
class Pause:
    """The run is stopped at a write; the request, or its answer, goes on only once the proxy is healed."""

    stop: Callable[[], Any]
    after: bool

    async def play(self, exchange: Exchange) -> None:
        body = await exchange.body()
        answer = None
        if self.after:
            await exchange.send(exchange.head, body)
            answer = await exchange.answer()
        self.stop()
        await exchange.healed.wait()
        if answer is None:
            await exchange.send(exchange.head, body)
            answer = await exchange.answer()
        await exchange.reply(*answer)


class Writes:
    """Counts the writes that pass a proxy, and does something at one of them."""

    def __init__(self, proxy: StorageProxy) -> None:
        self.names: list[str] = []
        self._at: tuple[int, Fault] | None = None
        proxy.schedule = self._schedule

    def at(self, number: int, fault: Fault) -> None:
        """The write `number` from now on, from 0."""
        self.names.clear()
        self._at = number, fault

    def _schedule(self, asked: Asked) -> Fault | None:
        if asked.method not in WRITES:
            return None
        self.names.append(f"{asked.method} {asked.key}")
        number, fault = self._at or (-1, None)
        return fault if len(self.names) - 1 == number else None
