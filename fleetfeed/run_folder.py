"""The run folder: its file names, who holds it, and what is written there.

.fleetfeed/
  keeper.lock        locked for as long as the keeper lives; holds its pid
  stack.json         the plan of the last start (0600)
  credentials.json   the S3 key and Ray's token (0600)
  s3/                SeaweedFS's data: stays
  tls/               the certificate authority and the server's certificate: stay (see `fleetfeed.certificates`)
  ray/, haproxy/     of the last start: logs, sockets, HAProxy's configuration
  *.log              one of each server
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from fleetfeed.errors import AlreadyRunning, StackError
from fleetfeed.plan import Credentials, Plan
from fleetfeed.processes import wait_until

LOCK = "keeper.lock"
LOGS = ("keeper", "seaweedfs", "ray", "serve", "tls")
OURS = (".gitignore", "s3", "tls", "ray", "haproxy", *(f"{server}.log" for server in LOGS))
LOCK_WAIT_S = 0.5  # longer than anybody looks whether it is locked


@dataclass(frozen=True)
class RunFolder:
    """Paths inside of one run folder; create with `open` to have it made."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder, made if need be: nobody else may look into it, and git does not see it."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = [name for name in OURS if (path / name).exists() and not (path / LOCK).exists()]
        if foreign:
            raise StackError(f"run_dir must be a folder for the stack alone, got {path.resolve()} with {foreign}")
        path.chmod(0o700)
        (path / LOCK).touch(mode=0o600)
        (path / ".gitignore").write_text("*\n")
        return cls(path.resolve())

    def log(self, server: str) -> Path:
        return self.path / f"{server}.log"

    @property
    def s3_data(self) -> Path:
        return self.path / "s3"

    @property
    def tls(self) -> Path:
        return self.path / "tls"

    @property
    def haproxy_launcher(self) -> Path:
        return self.path / "haproxy" / "launch"

    def lock(self) -> int:
        """Take the folder, for as long as the file descriptor is open anywhere. Raises `AlreadyRunning`."""
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        if not wait_until(lambda: _take(descriptor), limit_s=LOCK_WAIT_S):
            os.close(descriptor)
            keeper = self.keeper_pid() or "starting"
            raise AlreadyRunning(f"a stack is running in {self.path} (keeper {keeper}): end it with `fleetfeed down`")
        os.truncate(descriptor, 0)
        return descriptor

    def keeper_pid(self) -> int | None:
        """The process that keeps a stack here, if one does."""
        try:
            with (self.path / LOCK).open() as file:
                if _take(file.fileno()):
                    return None
                return int(file.read() or 0) or None
        except FileNotFoundError:
            return None

    def last_plan(self) -> Plan | None:
        """The plan of the last start, whether or not it runs."""
        return self.read_plan() if (self.path / "stack.json").exists() else None

    def read_plan(self) -> Plan:
        return Plan.model_validate_json((self.path / "stack.json").read_bytes())

    def write_plan(self, plan: Plan) -> None:
        _write_secret(self.path / "stack.json", plan)

    def credentials(self) -> Credentials:
        """This folder's, random, made at the first start."""
        path = self.path / "credentials.json"
        if not path.exists():
            made = {"access_key_id": secrets.token_hex(10), "secret_access_key": secrets.token_urlsafe(30)}
            _write_secret(path, Credentials(**made, ray_token=secrets.token_hex(32)))
        return Credentials.model_validate_json(path.read_bytes())

    def clear(self) -> None:
        """Remove what the last start left, the bucket aside."""
        for name in ("ray", "haproxy"):
            shutil.rmtree(self.path / name, ignore_errors=True)
            (self.path / name).mkdir(mode=0o700)
        for server in LOGS:
            self.log(server).unlink(missing_ok=True)


def hold(descriptor: int) -> None:
    """Write into the locked file that this process is the keeper."""
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def last_lines(path: Path, *, count: int = 15) -> str:
    """The end of a log, for an error message."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""


def _take(descriptor: int) -> bool:
    """Lock it, unless another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_secret(path: Path, value: BaseModel) -> None:
    """Whole or not at all, readable for its owner only from the first byte."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(value.model_dump_json(indent=2))
    draft.replace(path)
