"""What is decided before a server starts, and what a client needs to know of a running stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fleetfeed.ports import Ports, address, url

BUCKET = "fleetfeed"
REGION = "us-east-1"


class Credentials(BaseModel):
    """The S3 key and Ray's token of a run folder; made once, so that notebooks survive a restart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key_id: str
    secret_access_key: str = Field(repr=False)
    ray_token: str = Field(repr=False)


class Front(BaseModel):
    """The TLS front of a stack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(description="The address on which it listens.")
    names: tuple[str, ...] = Field(description="What the certificate is for, beside loopback.")
    ca_file: Path = Field(description="What clients check its certificate against.")

    def listen(self, port: int) -> str:
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def url(self, port: int) -> str:
        """For a client of this machine, which reaches a front that listens on every address by loopback."""
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"https://{self.model_copy(update={'host': reached}).listen(port)}"


class Plan(BaseModel):
    """One start of a stack: written to the run folder before anything runs, so that it can be ended from there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack_id: str
    run_dir: Path
    link: Path = Field(description="Short name of run_dir: a Unix socket's path has at most 107 bytes.")
    app: str
    haproxy: bool = True
    num_cpus: int
    object_store_memory_bytes: int
    start_timeout_s: float
    ports: Ports
    credentials: Credentials
    front: Front | None = Field(None, description="The TLS front, if one is asked for.")


@dataclass(frozen=True)
class StackInfo:
    """Where a running stack listens, and how to get in."""

    stack_id: str
    keeper_pid: int
    run_dir: Path
    bucket: str
    ports: Ports
    credentials: Credentials
    front: Front | None = None

    @classmethod
    def of(cls, plan: Plan, *, keeper_pid: int) -> StackInfo:
        return cls(plan.stack_id, keeper_pid, plan.run_dir, BUCKET, plan.ports, plan.credentials, plan.front)

    @property
    def http_port(self) -> int:
        return self.ports.http

    @property
    def http_url(self) -> str:
        return url(self.ports.http)

    @property
    def edge_url(self) -> str:
        """Where robots and people are to come: the TLS front, if there is one."""
        return self.front.url(self.ports.https) if self.front else self.http_url

    @property
    def s3_url(self) -> str:
        return url(self.ports.s3)

    @property
    def dashboard_url(self) -> str:
        return url(self.ports.dashboard)

    @property
    def ray_address(self) -> str:
        return address(self.ports.gcs)

    @property
    def listeners(self) -> Mapping[str, str]:
        """What listens (in words) → its address."""
        found = {
            name: address(getattr(self.ports, name)) for name in Ports.model_fields if name != "https" or self.front
        }
        if self.front:
            found["https"] = self.front.listen(self.ports.https)
        return {Ports.model_fields[name].description or name: where for name, where in found.items()}

    def environment(self) -> dict[str, str]:
        """What a client process needs: the storage settings, and Ray's and its Jobs API's addresses."""
        return {
            **storage_environment(self.s3_url, self.credentials),
            **ray_environment(self.credentials),
            "RAY_ADDRESS": self.ray_address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
        }

    def edge_environment(self) -> dict[str, str]:
        """What a robot's side needs: where to send, and what to check the server's certificate against."""
        trusted = {"FLEETFEED_EDGE_CA_FILE": str(self.front.ca_file)} if self.front else {}
        return {"FLEETFEED_EDGE_URL": self.edge_url, **trusted}


def ray_environment(credentials: Credentials) -> dict[str, str]:
    """What servers and clients of this Ray must agree on.

    The first makes Ray take 127.0.0.1 for this machine's address, where it would listen on all interfaces otherwise; a
    driver without it replaces the loopback address by the machine's own and waits in vain. The token is asked for
    because whoever reaches the Jobs API runs code (CVE-2023-48022), and on loopback that is every local user.
    """
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": credentials.ray_token,
    }


def storage_environment(s3_url: str, credentials: Credentials) -> dict[str, str]:
    """The settings of `dataset_catalog.settings.StorageSettings` for this stack's bucket."""
    return {
        "FLEETFEED_STORAGE_URL": f"s3://{BUCKET}",
        "FLEETFEED_STORAGE_ENDPOINT_URL": s3_url,
        "FLEETFEED_STORAGE_REGION": REGION,
        "FLEETFEED_STORAGE_ACCESS_KEY_ID": credentials.access_key_id,
        "FLEETFEED_STORAGE_SECRET_ACCESS_KEY": credentials.secret_access_key,
    }
