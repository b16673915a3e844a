"""Errors of the jobs.

JobError
├── SpecError         an align spec that cannot be read, or that does not fit the data
├── MediaError        a video segment that is not what it should be; its reason for quarantine
├── MessageError      a topic's messages cannot be decoded
├── SegmentLost       a raw object is gone from the bucket, or damaged in it, since it was indexed
├── WorkFailed        Ray could not do the work; nothing was published
├── SandboxFailed     no process could be started to look into segments; nothing was published
└── ClusterUnavailable  Ray's Jobs API is not named, does not answer, or knows no such job
"""


class JobError(Exception):
    """Base of every error raised by `ray_jobs`."""


class SpecError(JobError, ValueError):
    """An align spec that cannot be read, or that does not fit the data."""


class MediaError(JobError):
    """A video segment that is not what it should be."""


class MessageError(JobError):
    """A topic's messages cannot be decoded."""


class SegmentLost(JobError):
    """A raw object, `key`, is gone from the bucket, or damaged in it, since it was indexed."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key} is lost since it was indexed: {self.reason}"


class WorkFailed(JobError):
    """Ray could not do the work; nothing was published."""


class SandboxFailed(JobError):
    """No process could be started to look into segments; nothing was published."""


class ClusterUnavailable(JobError):
    """Ray's Jobs API is not named, does not answer, or knows no such job."""
