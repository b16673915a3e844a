"""What the jobs are compared with, in processes of their own: bare loops that do the least that the task needs.

    decode  every packet of the lake's video through one libav decoder a segment, on one thread; nothing is looked at
    copy    every raw object read from S3 and written as a Lance blob, 32 objects a batch; nothing is checked
    mcap    every message of the lake's telemetry by the `mcap` reader, with its protobuf decoder and `json.loads`,
            in file order, which costs it less than its default order of time

`decode` and `mcap` have their bytes in memory before the clock starts. Only CPU time inside the loop is counted.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

from benchmarks.measure import BenchmarkFailed
from dataset_catalog.storage import Storage
from edge.wire import SegmentId
from ingest_serve.raw_store import RawObject, RawStore

READY = "ready"
COPIED_TOGETHER = 32
COPIES = "copies"


@dataclass(frozen=True, slots=True)
class Loop:
    """What a loop went through: `count` frames, bytes or messages, and the CPU seconds, user and system."""

    count: int
    cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        return self.count / self.cpu_s


class Peer:
    """Processes that stand ready to run a loop, each over its share of one lake."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._pipes = [(cast(IO[str], one.stdin), cast(IO[str], one.stdout)) for one in processes]
        for _, stdout in self._pipes:
            _answer(stdout)

    def run(self, number: int) -> Loop:
        """Once through everything, in all processes at once; `number` is the round's."""
        for stdin, _ in self._pipes:
            stdin.write(f"{number}\n")
            stdin.flush()
        loops = [Loop(**json.loads(_answer(stdout))) for _, stdout in self._pipes]
        return Loop(sum(one.count for one in loops), sum(one.cpu_s for one in loops))


def _answer(pipe: IO[str]) -> str:
    line = pipe.readline()
    if not line:
        raise BenchmarkFailed("a bare loop ended early; what it said stands above")
    return line


@contextmanager
def peer(loop: str, storage: Storage, *, processes: int | None = None) -> Iterator[Peer]:
    """Start a loop's processes, one a core as Ray does, and have them read beforehand what they need in memory.

    Cores that are all busy do less for a second of CPU time than one that is busy alone: so both sides keep all busy.
    """
    total = processes or os.cpu_count() or 1
    environment = {**os.environ, **_as_environment(storage)}
    with ExitStack() as ended:
        started = []
        for share in range(total):
            command = [sys.executable, "-m", "benchmarks.jobs_peers", loop, storage.url, str(share), str(total)]
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            ended.callback(_end, process)
            started.append(process)
        yield Peer(started)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _as_environment(storage: Storage) -> dict[str, str]:
    settings = storage.settings
    secret = settings.secret_access_key.get_secret_value() if settings.secret_access_key else None
    values = {
        "ENDPOINT_URL": settings.endpoint_url,
        "ACCESS_KEY_ID": settings.access_key_id,
        "SECRET_ACCESS_KEY": secret,
    }
    return {f"FLEETFEED_STORAGE_{name}": value for name, value in values.items() if value}


# -- in the process --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """Every `total`-th of a lake's segments, from the `number`-th on."""

    storage: Storage
    number: int = 0
    total: int = 1

    def segments(self) -> list[SegmentId]:
        store = RawStore.open(self.storage)
        streams = store.list_streams()
        found = [SegmentId(*stream, seq) for stream in streams for seq in store.list_after(*stream, -1)]
        return found[self.number :: self.total]

    def bodies(self, kind: str) -> Iterator[tuple[RawObject, bytes]]:
        store = RawStore.open(self.storage)
        for segment in self.segments():
            raw, body = store.read(segment)
            if raw.kind == kind:
                yield raw, body


def ready_to_decode(share: Share) -> Callable[[int], int]:
    import av

    from ray_jobs.media import read_track

    tracks = [
        [packet.data for packet in read_track(body, content_type=raw.content_type, start_ns=raw.start_ns).packets]
        for raw, body in share.bodies("video")
    ]

    def loop(_: int) -> int:
        frames = 0
        for packets in tracks:
            context: Any = av.CodecContext.create("h264", "r")
            context.thread_count = 1
            for data in packets:
                frames += len(context.decode(av.Packet(data)))
            frames += len(context.decode(None))
        return frames

    return loop


def ready_to_copy(share: Share) -> Callable[[int], int]:
    import lance
    import pyarrow as pa

    from dataset_catalog.schema import DATA_STORAGE_VERSION
    from ingest_serve.bucket import Bucket

    storage, bucket = share.storage, Bucket.open(share.storage)
    keys = [segment.key for segment in share.segments()]
    schema = pa.schema([("key", pa.string()), lance.blob_field("payload")])

    def batches(counted: list[int]) -> Iterator[Any]:
        for start in range(0, len(keys), COPIED_TOGETHER):
            together = keys[start : start + COPIED_TOGETHER]
            bodies = [found[1] for key in together if (found := bucket.read(key))]
            counted.append(sum(map(len, bodies)))
            yield pa.RecordBatch.from_arrays([pa.array(together), lance.blob_array(bodies)], schema=schema)

    def loop(number: int) -> int:
        counted: list[int] = []
        lance.write_dataset(
            pa.RecordBatchReader.from_batches(schema, batches(counted)),
            f"{storage.url}/{COPIES}/{number}-{share.number}.lance",
            data_storage_version=DATA_STORAGE_VERSION,
            storage_options=storage.lance_options(),
        )
        return sum(counted)

    return loop


def ready_to_read_mcap(share: Share) -> Callable[[int], int]:
    from mcap.decoder import DecoderFactory
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory as ProtobufFactory

    class JsonFactory(DecoderFactory):  # type: ignore[misc]
        def decoder_for(self, message_encoding: str, schema: Any) -> Any:
            return json.loads if message_encoding == "json" else None

    bodies = [body for _, body in share.bodies("telemetry")]
    factories = [JsonFactory(), ProtobufFactory()]

    def loop(_: int) -> int:
        messages = 0
        for body in bodies:
            reader = make_reader(io.BytesIO(body), decoder_factories=factories)
            for _message in reader.iter_decoded_messages(log_time_order=False):
                messages += 1
        return messages

    return loop


LOOPS = {"decode": ready_to_decode, "copy": ready_to_copy, "mcap": ready_to_read_mcap}


def main(words: Sequence[str]) -> None:
    loop = LOOPS[words[0]](Share(Storage.open(words[1]), int(words[2]), int(words[3])))
    print(READY, flush=True)
    for line in sys.stdin:
        before_s = time.process_time()  # of all threads
        count = loop(int(line))
        print(json.dumps(asdict(Loop(count, time.process_time() - before_s))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
