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


class Plan(BaseModel):
    """One start of a stack: written to the run folder before anything runs, so that it can be ended from there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack_id: str
    run_dir: Path
    link: Path = Field(description="Short name of run_dir: a Unix socket's path has at most 107 bytes.")
    app: str
    num_cpus: int
    object_store_memory_bytes: int
    start_timeout_s: float
    ports: Ports
    credentials: Credentials


@dataclass(frozen=True)
class StackInfo:
    """Where a running stack listens, and how to get in."""

    stack_id: str
    keeper_pid: int
    run_dir: Path
    bucket: str
    ports: Ports
    credentials: Credentials

    @classmethod
    def of(cls, plan: Plan, *, keeper_pid: int) -> StackInfo:
        return cls(plan.stack_id, keeper_pid, plan.run_dir, BUCKET, plan.ports, plan.credentials)

    @property
    def http_port(self) -> int:
        return self.ports.http

    @property
    def http_url(self) -> str:
        return url(self.ports.http)

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
        return {
            field.description or name: address(getattr(self.ports, name)) for name, field in Ports.model_fields.items()
        }

    def environment(self) -> dict[str, str]:
        """What a client process needs: the storage settings, and Ray's and its Jobs API's addresses."""
        return {
            **storage_environment(self.s3_url, self.credentials),
            **ray_environment(self.credentials),
            "RAY_ADDRESS": self.ray_address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
        }


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
