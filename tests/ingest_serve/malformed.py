"""What strangers send, byte by byte, and what must hold whatever it was.

An `Onlooker` watches a server from outside while it is sent to: it reads the log, and lists the bucket.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from select import select

from edge import wire
from ingest_serve.problems import PROBLEMS
from tests.ingest_serve.conftest import Server

LIMIT_S = 60.0  # of waiting for an answer
PATIENCE_S = 0.1
NOT_HTTP = b"Invalid HTTP request received."  # uvicorn's own answer, before the application
_TRACE = re.compile(r"Traceback|File \"|site-packages|Error\(")

Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, read whole."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a problem, "" for anything else, and for what HEAD is answered."""
        is_problem = self.body and self.fields.get("content-type") == wire.PROBLEM_TYPE
        return str(json.loads(self.body)["code"]) if is_problem else ""


def request(
    method: str, target: str, fields: Mapping[str, str] | Fields = (), body: bytes = b"", *, version: str = "1.1"
) -> bytes:
    """The bytes of a request, right or wrong: nothing is escaped, added or left out but Host and Content-Length."""
    pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
    names = {name.lower() for name, _ in pairs}
    if "host" not in names and version == "1.1":
        pairs.insert(0, ("Host", "x"))
    if body and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass
class Onlooker:
    """Sends to one server, and checks after each answer what must hold of every answer."""

    server: Server
    records: list[logging.LogRecord] = field(default_factory=list)

    def send(self, raw: bytes, *, cut: bool = False) -> Answer | None:
        """The first answer to these bytes; None if the server closed without one. `cut`: nothing more will come.

        That is told to the server once it has not answered for a moment, since then it has perhaps not all it needs.
        """
        with socket.create_connection(self.server.address, timeout=LIMIT_S) as connection:
            try:
                connection.sendall(raw)
                if cut and not select([connection], [], [], PATIENCE_S)[0]:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # closed before it had all of it: what it said is read all the same
            return read_answer(connection, is_head=raw.startswith(b"HEAD "))

    def check(self, answer: Answer | None) -> None:
        """No 5xx, nothing of our inside, and every refusal is a problem that is in the table."""
        assert not [
            record.getMessage() for record in self.records if record.exc_info or record.levelno >= logging.ERROR
        ]
        if answer is None:
            return
        assert answer.status < 500, answer.body
        assert not _TRACE.search(answer.body.decode("latin-1")), answer.body
        if answer.status >= 400 and answer.body != NOT_HTTP:
            check_problem(answer)

    def keys(self) -> set[str]:
        """Every object in the lake but hints, whose keys the server makes up, and writes when it pleases."""
        return {entry.name for entry in self.server.bucket.entries("") if not entry.name.startswith("arrivals/")}


def check_problem(answer: Answer) -> None:
    assert wire.REQUEST_ID_HEADER.lower() in answer.fields
    if not answer.body:
        return  # to HEAD
    assert answer.fields["content-type"] == wire.PROBLEM_TYPE, answer.body
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status == PROBLEMS[problem["code"]].status
    assert 0 < len(problem["detail"]) < 2000


def read_answer(connection: socket.socket, *, is_head: bool = False) -> Answer | None:
    response = http.client.HTTPResponse(connection, method="HEAD" if is_head else "GET")
    try:
        response.begin()
        body = response.read()
    except (http.client.HTTPException, ConnectionError):
        return None
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


@contextmanager
def watched(server: Server) -> Iterator[Onlooker]:
    """An onlooker who also reads what the server logs."""
    onlooker = Onlooker(server)
    handler = logging.StreamHandler(io.StringIO())
    handler.emit = onlooker.records.append  # type: ignore[method-assign]
    loggers = [logging.getLogger(), logging.getLogger("uvicorn")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield onlooker
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
