"""Platform team: turn what has arrived into tables and an aligned dataset; run it as often as you like.

    python examples/build_dataset.py                                       (a Ray of its own, on this machine)
    ray job submit --working-dir . -- python examples/build_dataset.py     (on a cluster; see cluster.yaml)

FLEETFEED_STORAGE_* say where the bucket is: eval "$(fleetfeed env)" for the embedded stack.
"""

from pathlib import Path

from dataset_catalog import Catalog
from dataset_catalog.storage import Storage
from ray_jobs import align_frames, index_segments, load_telemetry
from ray_jobs.align_spec import AlignSpec
from ray_jobs.settings import JobsSettings

SPEC = Path(__file__).with_name("arm.toml")


def main() -> None:
    storage, settings = Storage.open(), JobsSettings()
    summaries = [
        index_segments.run(storage, settings),
        load_telemetry.run(storage, settings),
        align_frames.run(storage, settings, AlignSpec.load(SPEC)),
    ]
    for summary in summaries:
        print(f"{summary.job}: {'published ' + str(summary.versions) if summary.versions else 'nothing new'}")

    catalog = Catalog(storage)
    dataset = catalog.dataset("arm")
    print(f"arm v{dataset.version}: {len(dataset.episodes())} episodes, {len(dataset.steps())} steps")
    print(catalog.sql("SELECT state, count(*) AS segments, sum(bytes)::BIGINT AS bytes FROM segments GROUP BY ALL"))


if __name__ == "__main__":
    main()
