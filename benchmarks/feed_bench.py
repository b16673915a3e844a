"""What all parts of the feed's benchmark share: how much is measured, where it lies, and that it is made once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import feed_footage, feed_lake, feed_lerobot
from benchmarks.feed_loops import Asked
from benchmarks.feed_packets import ORIGINAL, PAIRS, Footage
from benchmarks.feed_sides import ROOT, Side, side
from benchmarks.measure import BenchmarkFailed, console
from dataset_catalog.storage import Storage

PEERS = ("litdata", "webdataset", "mosaic")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. The first round of each side is not."""

    episodes: int
    frames: int
    rounds: int
    batches: int  # of 64 windows at 224×224 in a round; others have fewer, by what they take
    starts: int
    steps: tuple[int, int]


WHOLE = Sizes(200, 500, 7, 60, 5, (1_000_000, 10_000_000))
QUICK = Sizes(4, 200, 1, 4, 1, (2_000, 20_000))


@dataclass(frozen=True)
class Bench:
    """What every part needs: where everything lies, and the others' interpreters or why there is none."""

    folder: Path
    sizes: Sizes
    footage: Footage
    peers: Path | str
    lerobot: Path | str
    real: Path | None

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def pairs(self) -> Path:
        """A lake with the original and our rendition of GOPs of two, both at 640×480."""
        return self.folder / "lake-pairs"

    def asked(self, rendition: str) -> Asked:
        return Asked(lake=str(self.lake), frames_each=self.footage.frames, rendition=rendition)

    def batches(self, share: float) -> int:
        return max(2, round(self.sizes.batches * share))


def once(folder: Path, make: Callable[[Path], object]) -> None:
    """Make a folder unless it is there, whole."""
    if folder.exists():
        return
    console.print(f"making {folder} …")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    make(part)
    part.rename(folder)


def read_once(*folders: Path) -> None:
    """Read every file, so that all sides find theirs in the page cache: what a cold disk takes is not compared, and
    reading a little anywhere costs it far more than reading a shard."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def store_ours(bench: Bench) -> None:
    """The footage, and our lake with both renditions."""
    feed_footage.make(bench.footage)
    once(bench.lake, lambda place: feed_lake.write_footage(Storage.open(str(place)), bench.footage))


def store_theirs(bench: Bench) -> None:
    """In the other libraries' own forms, where they are there."""
    if isinstance(bench.peers, Path):
        for name in PEERS:
            once(bench.folder / name, partial(_store, bench, name))


def store_lerobot(bench: Bench) -> None:
    """As LeRobot has it, and ours in GOPs of two to compare it with."""
    feed_footage.make(bench.footage)
    once(bench.pairs, lambda place: _store_pairs(bench, place))
    once(bench.folder / "lerobot", lambda place: feed_lerobot.store(place, bench.footage))


def _store_pairs(bench: Bench, place: Path) -> None:
    feed_lake.write_footage(Storage.open(str(place)), bench.footage, (), forms=(ORIGINAL, PAIRS))


def _store(bench: Bench, name: str, place: Path) -> None:
    footage = bench.footage
    words = ["store", name, str(place), str(footage.folder), str(footage.episodes), str(footage.frames)]
    command = [str(bench.peers), "-m", "benchmarks.feed_peers", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BenchmarkFailed(f"{name} cannot store the footage: {' '.join(ran.stderr.split()[-40:])}")


def ours(name: str, asked: Asked, **environment: str) -> AbstractContextManager[Side]:
    return side(name, "benchmarks.feed_loops", ["ours", asked.as_json], environment=environment)


def limit(name: str, asked: Asked) -> AbstractContextManager[Side]:
    return side(name, "benchmarks.feed_loops", ["limit", asked.as_json])
