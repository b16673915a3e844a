"""People with tokens, at a server's platform routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import requests

from ingest_serve.tokens import Tokens, parse_token
from tests.ingest_serve.conftest import Server


@dataclass(frozen=True)
class Holder:
    """Somebody who holds a token."""

    server: Server
    text: str

    @property
    def token_id(self) -> str:
        return (parse_token(self.text) or ("", ""))[0]

    def send(
        self, method: str, path: str, json: Any = None, *, body: bytes | None = None, **query: Any
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.text}"}
        url = f"{self.server.url}{path}"
        return requests.request(method, url, json=json, data=body, params=query, headers=headers, timeout=30)

    def get(self, path: str, **query: Any) -> Any:
        response = self.send("GET", path, **query)
        assert response.status_code == 200, response.text
        return response.json()

    def all(self, path: str, rows: str, **query: Any) -> list[Any]:
        """Every page's rows."""
        found, cursor = [], ""
        while True:
            page = self.get(path, **({"cursor": cursor} if cursor else {}), **query)
            found += page[rows]
            cursor = page["next"]
            if cursor is None:
                return found


def holder(server: Server, *scopes: str, name: str = "Ada", days: float = 1) -> Holder:
    """Somebody with a new token of these scopes."""
    _, text = Tokens(server.bucket).create(name, scopes=scopes, now_ns=server.clock(), days=days)
    return Holder(server, text)
