"""Errors of the catalog.

CatalogError
├── SettingsError    the settings file cannot be read
├── StorageError     the lake's URL or its settings do not lead to a store
├── NotFound         no such dataset, version, tag, table or column
├── VersionConflict  another writer published this version first
├── QueryError       a filter or an SQL statement that cannot be run
├── WindowError      a window spec that does not fit the dataset
├── DecodeError      stored video that does not decode to the frames it should hold
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


class VersionConflict(CatalogError):
    """Another writer published this version first."""


class QueryError(CatalogError, ValueError):
    """A filter or an SQL statement that cannot be run."""


class WindowError(CatalogError, ValueError):
    """A window spec that does not fit the dataset."""


class DecodeError(CatalogError):
    """Stored video that does not decode to the frames it should hold."""


class ResumeError(CatalogError, ValueError):
    """A saved state that belongs to another feed."""
