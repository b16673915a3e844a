"""A pinned set: the few lines of JSON that give the same training data again, or say that they cannot.

It names a version of a dataset, a version of the labels, and the conditions one after the other; and it holds the
SHA-256 of what they came to. Whoever opens it resolves the conditions anew, and compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_catalog.errors import NotFound, PinError, QueryError
from dataset_catalog.versions import Manifest
from dataset_catalog.whole_file import write_whole

if TYPE_CHECKING:
    from dataset_catalog.catalog import Catalog
    from dataset_catalog.dataset import Dataset

FORMAT = "fleetfeed/pinned/1"
Condition = dict[str, Any]  # the arguments of one `select`, or `{"part": …, "shares": …, "seed": …}` of one `split`


@dataclass(frozen=True, slots=True)
class PinnedSet:
    """`dataset` is its URI, `name` its name in the lake; `published` the SHA-256 of the version's manifest."""

    dataset: str
    name: str
    version: int
    published: str
    label_version: int
    selection: tuple[Condition, ...]
    episodes: int
    steps: int
    digest: str
    format: str = FORMAT

    @classmethod
    def of(cls, dataset: Dataset) -> PinnedSet:
        selection = dataset.selection
        return cls(
            dataset.uri,
            dataset.name,
            dataset.version,
            digest_of(dataset.manifest),
            dataset.label_version,
            dataset.conditions,
            len(selection.ids),
            len(selection),
            selection.digest(),
        )

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> PinnedSet:
        """From a file, from the JSON itself, or from what was parsed of it. Raises `PinError` for anything else."""
        try:
            if not isinstance(source, Mapping):
                text = str(source)
                source = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())
            if not isinstance(source, Mapping) or source.get("format") != FORMAT:
                raise PinError(f"expected a pinned set of the format {FORMAT}, got {str(source)[:100]}")
            found = cls(**{**source, "selection": tuple(source["selection"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PinError(f"this is no pinned set: {type(error).__name__}: {error}") from error
        found._check()
        return found

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def save(self, path: str | Path) -> Path:
        """Raises `CatalogError` where it cannot be written."""
        return write_whole(path, self.to_json())

    def open(self, catalog: Catalog) -> Dataset:
        """The same steps of the same version. Raises `PinError` that says what is not the same any more."""
        try:
            dataset = catalog.dataset(self.name, self.version, label_version=self.label_version)
        except NotFound as error:
            raise PinError(f"the pinned set cannot be had: {error}") from error
        self._compare("dataset", dataset.uri, self.dataset)
        self._compare("published", digest_of(dataset.manifest), self.published)
        for condition in self.selection:
            try:
                dataset = apply(dataset, condition)
            except (QueryError, NotFound, TypeError, ValueError, KeyError, AttributeError) as error:
                raise PinError(f"the pinned set's condition {condition} cannot be had: {error}") from error
        found = PinnedSet.of(dataset)
        for name in ("episodes", "steps", "digest"):
            self._compare(name, getattr(found, name), getattr(self, name))
        return dataset

    def _check(self) -> None:
        """That each field is of its kind: what was read may have been written by anybody."""
        for field in fields(self):
            kind = {"int": int, "str": str}.get(str(field.type), tuple)
            if type(getattr(self, field.name)) is not kind:
                raise PinError(f"this is no pinned set: {field.name} is {getattr(self, field.name)!r}")
        if not all(isinstance(condition, Mapping) for condition in self.selection):
            raise PinError(f"this is no pinned set: its selection is {list(self.selection)}")

    def _compare(self, name: str, found: object, pinned: object) -> None:
        if found != pinned:
            raise PinError(f"{self.name} v{self.version} is not what was pinned: {name} was {pinned}, is {found}")


def apply(dataset: Dataset, condition: Condition) -> Dataset:
    """One step of the selection, as the dataset itself wrote it down."""
    if "part" not in condition:
        return dataset.select(**condition)
    parts = dataset.split(by=condition["by"], seed=condition["seed"], **condition["shares"])
    return parts[condition["part"]]


def digest_of(manifest: Manifest) -> str:
    """SHA-256 of what a version's manifest says."""
    return hashlib.sha256(json.dumps(asdict(manifest), sort_keys=True).encode()).hexdigest()
