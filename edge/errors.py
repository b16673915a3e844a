"""Errors of the robot side.

EdgeError
├── BadName                       a robot, recording, stream or topic name that the protocol forbids
├── GapError                      bytes or numbers that are no gap record
├── SegmentError                  bytes that are not a readable MCAP segment
├── SpoolError                    the spool folder cannot be used as asked
├── AgentRuns                     another agent works on the same folder
├── RecorderClosed                a reading came after `close()`
├── EncodeError                   a camera picture could not be encoded
├── SignatureError                a request's token does not fit the request
├── NotEnrolled                   the robot has no key the server knows
├── RotationError                 the robot's key could not be replaced now; it keeps one that counts
└── UploadError                   the server refused an upload for good, or could not be reached in the bounded time
"""


class EdgeError(Exception):
    """Base of every error raised by `edge`."""


class BadName(EdgeError, ValueError):
    """A name that cannot be part of a key, with the pattern it should have matched."""


class GapError(EdgeError, ValueError):
    """Bytes or numbers that are no gap record."""


class SegmentError(EdgeError):
    """Bytes that are not a readable MCAP segment."""


class SpoolError(EdgeError):
    """The spool folder cannot be used as asked."""


class AgentRuns(EdgeError):
    """Another agent works on the same folder."""


class RecorderClosed(EdgeError):
    """A reading came after `close()`."""


class EncodeError(EdgeError):
    """A camera picture could not be encoded."""


class SignatureError(EdgeError):
    """A request's token does not fit the request. `code` is the problem code the server answers."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class NotEnrolled(EdgeError):
    """The robot has no key that the server knows."""


class RotationError(EdgeError):
    """The robot's key could not be replaced now; it keeps one that counts. `code` is the problem code of the server."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class UploadError(EdgeError):
    """The server refused an upload for good, or could not be reached in the bounded time."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
