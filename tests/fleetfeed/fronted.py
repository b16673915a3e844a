"""Ways to speak to a running TLS front."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import requests

from edge import https
from tests.fleetfeed.witness import Witness


class Front:
    """A running front, the server behind it, and ways to speak to it."""

    def __init__(self, url: str, ca_file: Path, behind: Witness) -> None:
        self.url, self.ca_file, self.behind = url, ca_file, behind

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("https://").partition(":")
        return host, int(port)

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        context = context or ssl.create_default_context(cafile=self.ca_file)
        return context.wrap_socket(socket.create_connection(self.address, timeout=20), server_hostname="127.0.0.1")

    def say(self, words: bytes) -> bytes:
        """Send these bytes, and listen until the front closes or has answered a request that follows them."""
        with self.connect() as connection:
            try:
                connection.sendall(words)
                connection.sendall(b"GET /after HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            except OSError:
                pass  # it has closed already
            return heard(connection)

    def request(self, method: str, target: str, **options: Any) -> requests.Response:
        session = https.prepare(requests.Session(), ca_file=self.ca_file)
        with session:
            return session.request(method, self.url + target, timeout=20, **options)


def heard(connection: socket.socket) -> bytes:
    """All that still comes until the other side closes."""
    words = b""
    try:
        while more := connection.recv(65536):
            words += more
    except OSError:
        pass
    return words
