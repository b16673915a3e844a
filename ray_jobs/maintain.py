"""The job maintain: keeps the lake fast and small. Compaction, indices, old versions, abandoned uploads; then nothing.

It changes no row, but where the settings say how long data are kept (`retention.py`). Each chain is published by
itself, so a killed run has done a part, and the next does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from dataset_catalog import versions
from dataset_catalog.errors import CommitLost, VersionConflict
from dataset_catalog.storage import Storage
from ingest_serve.arrivals import ArrivalLog
from ingest_serve.errors import IngestError
from ingest_serve.pieces import Pieces
from ray_jobs import cleanup, retention, upkeep
from ray_jobs.cluster import Progress, no_progress
from ray_jobs.settings import JobsSettings
from ray_jobs.summary import Summary

NAME = "maintain"
_EVERY = "every chain"


@dataclass(frozen=True, slots=True)
class _Chain:
    """One chain's part of the work."""

    storage: Storage
    settings: JobsSettings
    name: str
    dry_run: bool

    def keep_up(self) -> Summary:
        manifest = versions.newest(self.storage, self.name)
        if manifest is None:
            return _summary()
        found = upkeep.needs(self.storage, self.name, manifest)
        due = [need for need in found if need.is_due(min_fragments=self.settings.compact_fragments)]
        if not due:
            return _summary()
        notes = tuple(f"{self.name} {need}" for need in due)
        if self.dry_run:
            return _summary(notes, kept_up=len(due))
        try:
            published = upkeep.keep_up(self.storage, self.name, manifest, due)
        except (VersionConflict, CommitLost) as error:
            return _summary((f"{self.name} is left for the next run: {error}",))
        return replace(_summary(notes, kept_up=len(due)), versions=(published.n,))

    def clean(self) -> Summary:
        keep_days = self.settings.keep_version_days
        old = cleanup.find_old(self.storage, self.name, keep_days=keep_days)
        freed = 0 if self.dry_run else cleanup.remove(self.storage, old, keep_days=keep_days)
        return _summary(old_versions=old.count, manifests=len(old.manifests), freed=freed)


def run(
    storage: Storage, settings: JobsSettings, *, dry_run: bool = False, progress: Progress = no_progress
) -> Summary:
    """Do what is due; with `dry_run` only say what that is."""
    started = time.monotonic()
    chains = [_Chain(storage, settings, name, dry_run) for name in _chains(storage)]
    summary = _summary()
    for done, chain in enumerate(chains):
        progress(done, len(chains) + 1)
        summary = summary + chain.keep_up() + chain.clean()
    progress(len(chains), len(chains) + 1)
    summary += _expire(storage, settings, dry_run=dry_run)
    if storage.is_s3 and not dry_run:
        summary += _clear(storage, settings)
    progress(len(chains) + 1, len(chains) + 1)
    return summary.timed(started)


def _chains(storage: Storage) -> Iterator[str]:
    yield from (*cleanup.CONTINUOUS, versions.LABELS)
    for name in versions.list_datasets(storage):
        yield f"{versions.DATASETS}/{name}"


def _expire(storage: Storage, settings: JobsSettings, *, dry_run: bool) -> Summary:
    """What has been kept as long as the settings say."""
    summary = _summary()
    for job in (
        partial(
            retention.expire_raw,
            before_ns=_before_ns(settings.keep_raw_days),
            marked_before_ns=_before_ns(settings.keep_expiring_days),
        ),
        partial(retention.expire_telemetry, before_ns=_before_ns(settings.keep_telemetry_days)),
    ):
        try:
            done = job(storage, dry_run=dry_run)
        except (VersionConflict, CommitLost, IngestError) as error:
            summary += _summary((f"what is too old is left for the next run: {error}",))
            continue
        found = {"segments expiring": done.marked, "segments expired": done.removed, "rows expired": done.rows}
        summary += replace(_summary(freed=done.freed), versions=done.published) + Summary(NAME, _EVERY, counts=found)
    return summary


def _before_ns(days: float | None) -> int:
    """So many days ago; 0, nothing is so old, where no age is set."""
    return 0 if days is None else time.time_ns() - int(days * cleanup.DAY_S * 1e9)


def _clear(storage: Storage, settings: JobsSettings) -> Summary:
    """Uploads that nobody goes on with, and hints that nobody reads any more."""
    now_ns, day_ns = time.time_ns(), int(cleanup.DAY_S * 1e9)
    ArrivalLog.open(storage).clear(before_ns=now_ns - day_ns)
    return _summary(uploads=Pieces.open(storage).expire(before_ns=now_ns - int(settings.keep_upload_days * day_ns)))


def _summary(
    notes: tuple[str, ...] = (),
    *,
    kept_up: int = 0,
    old_versions: int = 0,
    manifests: int = 0,
    uploads: int = 0,
    freed: int = 0,
) -> Summary:
    """What a part of the work came to; `freed` in bytes."""
    counts = {
        "tables kept up": kept_up,
        "old versions": old_versions,
        "old manifests": manifests,
        "abandoned uploads": uploads,
        "bytes freed": freed,
    }
    return Summary(NAME, _EVERY, counts=counts, notes=notes)
