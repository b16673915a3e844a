"""Errors of the server side.

IngestError
├── StorageUnavailable            the bucket cannot be reached, or refuses us
├── NotStored                     no such raw object
├── DamagedObject                 a raw object whose metadata or bytes are not what was stored
├── CacheFull                     all the room for clips is being written to
└── Refused                       a request that is answered with a problem; `code` is one of `problems.PROBLEMS`
"""


class IngestError(Exception):
    """Base of every error raised by `ingest_serve`."""


class StorageUnavailable(IngestError):
    """The bucket cannot be reached, or refuses us."""


class NotStored(IngestError, LookupError):
    """No such raw object."""


class DamagedObject(IngestError):
    """A raw object whose metadata or bytes are not what was stored."""


class CacheFull(IngestError):
    """All the room for clips is being written to."""


class Refused(IngestError):
    """A request that is answered with a problem: its code, a sentence, and what else the client should be told.

    `extra` becomes members of the problem, `headers` those of the answer.
    """

    def __init__(self, code: str, detail: str, *, headers: dict[str, str] | None = None, **extra: object) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.extra = extra
