"""What may be turned on the embedded stack."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from dataset_catalog.settings import TableSettings

RAY_LEAST_OBJECT_STORE_BYTES = 75 << 20
HIGHEST_PORT = 65_535


class StackSettings(TableSettings):
    """Read from `FLEETFEED_STACK_*` and the table `[stack]`."""

    model_config = SettingsConfigDict(env_prefix="FLEETFEED_STACK_")
    table: ClassVar[str] = "stack"

    run_dir: Path = Field(
        Path(".fleetfeed"), description="Folder of one stack: the bucket's data, logs, addresses, credentials."
    )
    http_port: int = Field(
        0, ge=0, le=HIGHEST_PORT, description="Port of the ingest application on 127.0.0.1; 0: any free one."
    )
    s3_port: int = Field(0, ge=0, le=HIGHEST_PORT, description="Port of S3 on 127.0.0.1; 0: any free one.")
    dashboard_port: int = Field(
        0, ge=0, le=HIGHEST_PORT, description="Port of Ray's dashboard and Jobs API on 127.0.0.1; 0: any free one."
    )
    tls: bool = Field(False, description="Whether a TLS front stands before the ingest application.")
    https_port: int = Field(0, ge=0, le=HIGHEST_PORT, description="Port of the TLS front; 0: any free one.")
    https_host: str = Field(
        "127.0.0.1", description="Address on which the TLS front listens, and nothing else of the stack does."
    )
    tls_names: list[str] = Field(
        [], description="Host names and addresses of the server's certificate, beside those of loopback."
    )
    num_cpus: int = Field(
        4,
        ge=1,
        description="CPUs that Ray hands out. They are counted, not enforced: on a small machine more than it has.",
    )
    object_store_memory_bytes: int = Field(
        1 << 30, ge=RAY_LEAST_OBJECT_STORE_BYTES, description="Memory of Ray's object store; what does not fit spills."
    )
    app: str = Field(
        "ingest_serve.deployment:build_app",
        pattern=r"^[\w.]+:\w+$",
        description="`module:function` that takes nothing and returns the Serve application to run.",
    )
    haproxy: bool = Field(
        True, description="Serve behind HAProxy; else behind its own proxy in Python, which bounds no body: to compare."
    )
    start_timeout_s: float = Field(120.0, gt=0, description="How long the servers may take until all are ready.")

    @model_validator(mode="after")
    def _ports_differ(self) -> StackSettings:
        asked = [port for port in (self.http_port, self.https_port, self.s3_port, self.dashboard_port) if port]
        if len(asked) != len(set(asked)):
            raise ValueError(f"http_port, https_port, s3_port and dashboard_port must differ, got {asked}")
        return self

    @field_validator("https_host")
    @classmethod
    def _is_address(cls, host: str) -> str:
        return str(ipaddress.ip_address(host))  # ValueError: "… does not appear to be an IPv4 or IPv6 address"
