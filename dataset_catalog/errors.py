"""Errors of the catalog.

CatalogError
├── SettingsError    the settings file cannot be read
├── StorageError     the lake's URL or its settings do not lead to a store
├── NotFound         no such dataset, version, tag, table or column
│   └── NoVideo          no video in a range of time
├── VersionConflict  another writer published this version first
├── CommitLost       another writer got in between; nothing was published
├── RowsLost         other rows came back than work was given out for; nothing was published
├── PinError         a pinned set that is none, or that cannot be had again as it was
├── FormatError      files to bring in that are not what their format says, or data that a format cannot hold
├── QueryError       a filter or an SQL statement that cannot be run
├── WindowError      a window spec that does not fit the dataset
├── DecodeError      stored video that does not decode to the frames it should hold
├── DamagedSegment   a raw segment that is gone, or whose bytes are not those that were acknowledged
├── ClipError        a clip that cannot be cut in one piece
│   ├── ClipTooLong      more time or bytes than a clip may have
│   ├── CodecChanged     the encoding changes inside
│   └── Overlapping      two segments hold the same time
├── WorkerError      worker processes that cannot start, or that ended
└── ResumeError      a saved state that belongs to another feed
"""


class CatalogError(Exception):
    """Base of every error raised by `dataset_catalog`."""


class SettingsError(CatalogError):
    """The settings file cannot be read, or is not what it should be."""


class StorageError(CatalogError):
    """The lake's URL or its settings do not lead to a store."""


class NotFound(CatalogError, LookupError):
    """No such dataset, version, tag, table or column."""


class NoVideo(NotFound):
    """No video in a range of time."""


class VersionConflict(CatalogError):
    """Another writer published this version first."""


class CommitLost(CatalogError):
    """Another writer got in between; nothing was published."""


class RowsLost(CatalogError):
    """Other rows came back than work was given out for; nothing was published."""


class PinError(CatalogError, ValueError):
    """A pinned set that is none, or that cannot be had again as it was."""


class FormatError(CatalogError):
    """Files to bring in that are not what their format says, or data that a format cannot hold."""


class QueryError(CatalogError, ValueError):
    """A filter or an SQL statement that cannot be run."""


class WindowError(CatalogError, ValueError):
    """A window spec that does not fit the dataset."""


class DecodeError(CatalogError):
    """Stored video that does not decode to the frames it should hold."""


class DamagedSegment(CatalogError):
    """A raw segment that is gone, or whose bytes are not those that were acknowledged."""


class ClipError(CatalogError, ValueError):
    """A clip that cannot be cut in one piece."""


class ClipTooLong(ClipError):
    """More time or bytes than a clip may have."""


class CodecChanged(ClipError):
    """The encoding changes inside: ask for the part before `changed_at_ns`, and for the part from there on."""

    def __init__(self, changed_at_ns: int, what: str) -> None:
        super().__init__(f"{what} at {changed_at_ns} ns: ask for the part before it and for the part from there on")
        self.changed_at_ns = changed_at_ns


class Overlapping(ClipError):
    """Two segments hold the same time; `recordings` are theirs."""

    def __init__(self, at_ns: int, recordings: tuple[str, str]) -> None:
        one, other = recordings
        advice = "name the recording" if one != other else "capture times go back there, take the raw segments"
        super().__init__(f"recordings {one} and {other} both hold video of {at_ns} ns: {advice}")
        self.at_ns, self.recordings = at_ns, recordings


class WorkerError(CatalogError, RuntimeError):
    """Worker processes that cannot start, or that ended."""


class ResumeError(CatalogError, ValueError):
    """A saved state that belongs to another feed."""
