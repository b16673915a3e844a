"""HTTPS as a robot needs it: an answer that comes early is heard, and why a certificate is not believed is told.

A server may refuse an upload before its body has come, and close. Without TLS urllib3 then stops sending and reads the
answer; a TLS socket says so with another error, at which it would give up and lose the answer.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection


def prepare(session: requests.Session, *, ca_file: Path | None) -> requests.Session:
    """The session, good for our server: checked against `ca_file` alone, where there is one; no proxy."""
    session.trust_env = False
    session.mount("https://", _Adapter())
    if ca_file:
        session.verify = str(ca_file)
    return session


def distrust(error: BaseException) -> str | None:
    """Why the server's certificate was not believed; None where that is not what went wrong."""
    seen: set[int] = set()
    causes: list[object] = [error]
    while causes:
        cause = causes.pop()
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            causes += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]
    return None


class _Connection(HTTPSConnection):
    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except ssl.SSLEOFError as error:
            raise BrokenPipeError("the server has closed the connection") from error


class _Pool(HTTPSConnectionPool):
    ConnectionCls = _Connection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {**self.poolmanager.pool_classes_by_scheme, "https": _Pool}
