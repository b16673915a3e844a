"""What the jobs are compared with, in a process of its own: a bare loop that does the least that the task needs.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

from benchmarks.measure import BenchmarkFailed
from dataset_catalog.storage import Storage

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
    """A process that stands ready to run a loop over one lake."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._stdin, self._stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        self._answer()

    def run(self, number: int) -> Loop:
        """Once through everything; `number` is the round's."""
        self._stdin.write(f"{number}\n")
        self._stdin.flush()
        return Loop(**json.loads(self._answer()))

    def _answer(self) -> str:
        line = self._stdout.readline()
        if not line:
            raise BenchmarkFailed("a bare loop ended early; what it said stands above")
        return line


@contextmanager
def peer(loop: str, storage: Storage) -> Iterator[Peer]:
    """Start a loop's process, and have it read beforehand what it needs in memory."""
    command = [sys.executable, "-m", "benchmarks.jobs_peers", loop, storage.url]
    environment = {**os.environ, **_as_environment(storage)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()


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


def ready_to_decode(storage: Storage) -> Callable[[int], int]:
    import av

    from ray_jobs.media import read_track

    tracks = [
        [packet.data for packet in read_track(body, content_type=raw.content_type, start_ns=raw.start_ns).packets]
        for raw, body in _segments(storage, "video")
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


def ready_to_copy(storage: Storage) -> Callable[[int], int]:
    import lance
    import pyarrow as pa

    from dataset_catalog.schema import DATA_STORAGE_VERSION
    from ingest_serve.bucket import Bucket

    bucket = Bucket.open(storage)
    keys = [f"raw/{name}" for name in bucket.names("raw")]
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
            f"{storage.url}/{COPIES}/{number}.lance",
            data_storage_version=DATA_STORAGE_VERSION,
            storage_options=storage.lance_options(),
        )
        return sum(counted)

    return loop


def ready_to_read_mcap(storage: Storage) -> Callable[[int], int]:
    from mcap.decoder import DecoderFactory
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory as ProtobufFactory

    class JsonFactory(DecoderFactory):  # type: ignore[misc]
        def decoder_for(self, message_encoding: str, schema: Any) -> Any:
            return json.loads if message_encoding == "json" else None

    bodies = [body for _, body in _segments(storage, "telemetry")]
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


def _segments(storage: Storage, kind: str) -> Iterator[tuple[Any, bytes]]:
    from edge.wire import SegmentId
    from ingest_serve.raw_store import RawStore

    store = RawStore.open(storage)
    for robot, recording, stream in store.list_streams():
        for seq in store.list_after(robot, recording, stream, -1):
            raw, body = store.read(SegmentId(robot, recording, stream, seq))
            if raw.kind == kind:
                yield raw, body


def main(words: Sequence[str]) -> None:
    loop = LOOPS[words[0]](Storage.open(words[1]))
    print(READY, flush=True)
    for line in sys.stdin:
        before = os.times()
        count = loop(int(line))
        after = os.times()
        spent = after.user + after.system - before.user - before.system
        print(json.dumps(asdict(Loop(count, spent))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
