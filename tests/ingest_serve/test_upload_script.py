"""`examples/upload.sh` is a whole client: bash, curl and openssl, without anything of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ingest_serve.registry import Registry, invite
from tests.ingest_serve.conftest import BODY, RECORDING, Server

SCRIPT = Path(__file__).parents[2] / "examples/upload.sh"
TOOLS = ("bash", "curl", "openssl")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


class Client:
    """The script, run in a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.file = url, folder, folder / "segment.mcap"
        self.file.write_bytes(BODY)

    def run(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        arguments = [self.url, "h1-amber", str(self.file), "1000", "2000", *more]
        given = {"PATH": "/usr/local/bin:/usr/bin:/bin", **environment}
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            cwd=self.folder,
            env=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@needs_tools
def test_the_script_enrols_uploads_and_believes_only_a_receipt_of_its_bytes(server: Server, tmp_path: Path) -> None:
    client = Client(server.url, tmp_path)
    token = invite(Registry(server.bucket), "h1-amber", now_ns=server.clock())
    first = client.run(token, RECORDING=RECORDING)
    assert first.returncode == 0, first.stderr
    key = f"raw/h1-amber/{RECORDING}/telemetry/0000000000"
    assert json.loads(first.stdout)["key"] == key
    stored = server.bucket.read(key)
    assert stored is not None
    assert stored[1] == BODY
    again = client.run(token, RECORDING=RECORDING)
    assert json.loads(again.stdout)["already_stored"] is True
    other = client.run(SEQ="1", STREAM="arm")
    assert json.loads(other.stdout)["key"].endswith("/arm/0000000001")
    assert (tmp_path / "robot.pem").stat().st_mode & 0o77 == 0


@needs_tools
def test_the_script_tells_a_problem_and_fails(server: Server, tmp_path: Path) -> None:
    client = Client(server.url, tmp_path)
    unknown = client.run()
    assert unknown.returncode == 1
    assert '"code":"unknown_key"' in unknown.stderr
    used = client.run("no-such-invitation")
    assert used.returncode != 0
    assert '"code":"enrolment_unknown"' in used.stderr


@needs_tools
def test_the_script_does_not_believe_a_receipt_of_other_bytes(tmp_path: Path) -> None:
    with liar(b'{"sha256":"' + b"0" * 64 + b'","bytes":60}') as url:
        lied = Client(url, tmp_path).run()
    assert (lied.returncode, lied.stderr) == (1, "the receipt is of other bytes\n")


@contextmanager
def liar(receipt: bytes) -> Iterator[str]:
    """A server that answers every POST with this receipt."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.send_header("Content-Length", str(len(receipt)))
            self.end_headers()
            self.wfile.write(receipt)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
