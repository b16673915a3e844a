"""The job materialize: a rendition of a dataset's video at training resolution, made on every node of the cluster.

The same as `Dataset.materialize`, which needs no Ray; only who encodes is another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from dataset_catalog import materialize
from dataset_catalog.catalog import Catalog
from dataset_catalog.encoding import Encoding
from dataset_catalog.errors import WindowError
from dataset_catalog.materialize import VIDEOS_PER_COMMIT, Lake, Source
from dataset_catalog.publish import Written
from dataset_catalog.rendition import Fidelity
from dataset_catalog.storage import Storage
from ray_jobs.cluster import Item, Part, Progress, fan_out, no_progress
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary

NAME = "materialize"


def encoding(image_size: str, codec: str = "h264-g10", fit: str = "stretch") -> Encoding:
    """What the words of a command line say. Raises `WindowError` where they say nothing that can be made."""
    sides = image_size.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise WindowError(f"image size is HEIGHTxWIDTH, such as 224x224, got {image_size!r}")
    return Encoding(codec, (int(sides[0]), int(sides[-1])), fit)  # type: ignore[arg-type]  # it checks both


def run(
    storage: Storage, settings: JobsSettings, dataset: str, encoding: Encoding, *, progress: Progress = no_progress
) -> Summary:
    """Encode every video of the dataset's newest version that lacks this rendition, and publish it in one version or
    several. Nothing is published where none lacks it."""
    started = time.monotonic()
    newest = Catalog(storage).dataset(dataset)
    lake = materialize.newest_of(newest)
    sources = materialize.due(lake, encoding, newest.selection.episode_ids)
    summary = Summary(NAME, lake.chain, counts={"videos": 0})
    for first in range(0, len(sources), VIDEOS_PER_COMMIT):
        piece = sources[first : first + VIDEOS_PER_COMMIT]
        done, lake = _publish(lake, settings, encoding, piece, progress)
        summary += done
    return summary.timed(started)


def _publish(
    lake: Lake, settings: JobsSettings, encoding: Encoding, sources: Sequence[Source], progress: Progress
) -> tuple[Summary, Lake]:
    """These videos' rendition as the next version."""
    parts = fan_out(
        [source._asdict() for source in sources],
        partial(_encode, lake, encoding),
        per_task=settings.episodes_per_task,
        settings=settings,
        progress=progress,
    )
    written = Written.join(part.written["gops"] for part in parts)
    manifest = materialize.publish_renditions(lake, written)
    total = Fidelity.join(Fidelity(**part.report["fidelity"]) for part in parts)
    weights = f"{total.source_bytes / total.frames:,.0f} → {total.bytes / total.frames:,.0f} bytes a frame"
    note = f"{encoding.label}: {total.frames:,} frames, {weights}, PSNR {total.psnr_db:.1f} dB (luma)"
    summary = Summary(
        NAME,
        lake.chain,
        (manifest.n,),
        {"videos": len(sources)},
        {"gops": written.rows},
        (note,) if total.frames else (),
    )
    return summary, Lake(lake.storage, lake.name, manifest)


def _encode(lake: Lake, encoding: Encoding, items: Sequence[Item]) -> Part:
    """What one task does."""
    written, fidelity = materialize.write_renditions(lake, encoding, [Source(**item) for item in items])
    return Part({"gops": written}, {"fidelity": asdict(fidelity)})
