"""The other libraries: LitData, WebDataset, mosaicml-streaming. Runs in an environment of theirs.

    python -m benchmarks.feed_peers store NAME FOLDER FOOTAGE EPISODES FRAMES
    python -m benchmarks.feed_peers serve NAME FOLDER

Each stores samples as it likes best: a JPEG as bytes, the state, the chunk of 16 actions, the frame's number. Each
shuffles as it does by default. Pictures are decoded by libjpeg-turbo into the very tensor that is delivered, in the
cheapest way we know, which is our own too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch

from benchmarks.feed_packets import DOF, HORIZON, JPEG, SIZE, Footage, chunks, values
from benchmarks.feed_protocol import serve

BATCH = 64
SHARD_BYTES = 64 << 20
MIXED = 1_000  # samples that WebDataset shuffles at a time

Sample = dict[str, Any]


def samples(footage: Footage, episode: int) -> Iterator[Sample]:
    """Every frame of an episode, as it is stored."""
    state, action = (values(name, episode, footage.frames) for name in ("state", "action"))
    rows = zip(footage.packets(JPEG, episode), state, chunks(action), strict=True)
    for number, (picture, now, ahead) in enumerate(rows, episode * footage.frames):
        yield {"number": number, "image": picture, "state": now, "action": ahead}


# -- what each library does ------------------------------------------------------------------------------------


def store_litdata(folder: Path, footage: Footage) -> None:
    from litdata import optimize

    episodes = list(range(footage.episodes))
    optimize(
        partial(samples, footage),
        episodes,
        output_dir=str(folder),
        chunk_bytes=SHARD_BYTES,
        num_workers=min(2, len(episodes)),
        start_method="fork",
    )


def read_litdata(folder: Path) -> Iterator[Sample]:
    from litdata import StreamingDataset

    yield from StreamingDataset(str(folder), shuffle=True, seed=1)


def store_webdataset(folder: Path, footage: Footage) -> None:
    from webdataset import ShardWriter

    with ShardWriter(str(folder / "%05d.tar"), maxsize=SHARD_BYTES, verbose=0) as shards:
        for episode in range(footage.episodes):
            for one in samples(footage, episode):
                numbers = one["state"].tobytes() + one["action"].tobytes()
                shards.write({"__key__": f"{one['number']:09d}", "jpg": one["image"], "bin": numbers})


def read_webdataset(folder: Path) -> Iterator[Sample]:
    from webdataset import WebDataset

    shards = sorted(map(str, folder.glob("*.tar")))
    for one in WebDataset(shards, shardshuffle=len(shards), seed=1, empty_check=False).shuffle(MIXED):
        numbers = np.frombuffer(one["bin"], np.float32).reshape(1 + HORIZON, DOF)
        yield {"number": int(one["__key__"]), "image": one["jpg"], "state": numbers[0], "action": numbers[1:]}


def mosaic() -> Any:
    """mosaicml-streaming without its classes of ready-made pictures, which are not used: they want torchvision, and its
    wheel does not load with a torch without CUDA."""
    sys.modules["streaming.vision"] = ModuleType("streaming.vision")
    import streaming

    return streaming


def store_mosaic(folder: Path, footage: Footage) -> None:
    columns = {"number": "int", "image": "bytes", "state": f"ndarray:float32:{DOF}"}
    columns["action"] = f"ndarray:float32:{HORIZON},{DOF}"
    with mosaic().MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as shards:
        for episode in range(footage.episodes):
            for one in samples(footage, episode):
                shards.write(one)


def read_mosaic(folder: Path) -> Iterator[Sample]:
    streaming = mosaic()
    streaming.base.util.clean_stale_shared_memory()
    yield from streaming.StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=1, batch_size=BATCH)


STORE = {"litdata": store_litdata, "webdataset": store_webdataset, "mosaic": store_mosaic}
READ = {"litdata": read_litdata, "webdataset": read_webdataset, "mosaic": read_mosaic}

# -- the same for all ------------------------------------------------------------------------------------------


def batches(name: str, folder: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Epoch after epoch."""
    while True:
        together: list[Sample] = []
        for one in READ[name](folder):
            together.append(one)
            if len(together) == BATCH:
                yield collate(together)
                together = []


def collate(together: list[Sample]) -> dict[str, torch.Tensor]:
    images = np.empty((len(together), 1, 3, SIZE, SIZE), np.uint8)
    for out, one in zip(images[:, 0], together, strict=True):
        cv2.split(simplejpeg.decode_jpeg(one["image"], colorspace="RGB"), list(out))
    batch = {name: np.stack([one[name] for one in together]) for name in ("state", "action")}
    batch |= {"image": images, "number": np.array([one["number"] for one in together])}
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def look(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in batch.items()}


def main(words: list[str]) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    does, name, folder = words[0], words[1], Path(words[2])
    if does == "store":
        folder.mkdir(parents=True)
        STORE[name](folder, Footage(Path(words[3]), int(words[4]), int(words[5])))
    else:
        serve(batches(name, folder), look)


if __name__ == "__main__":
    main(sys.argv[1:])
