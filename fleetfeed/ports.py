"""Which TCP ports a stack listens on: those asked for, the others from one free block.

The blocks lie below the kernel's ephemeral range (32768 on), from which Ray's workers and every outgoing connection
take theirs. Several stacks run side by side, each in a block of its own.
"""

from __future__ import annotations

import random
import socket

from pydantic import BaseModel, ConfigDict, Field

from fleetfeed.errors import PortTaken, StackError
from fleetfeed.settings import StackSettings

LOOPBACK = "127.0.0.1"
BLOCK = 128
BLOCKS = range(11_008, 22_016, BLOCK)
REPLICA_PORTS = 64
ADMIN_GRPC_OFFSET = 10_000
"""SeaweedFS's maintenance worker looks for the admin server's gRPC port here, whatever `-admin.port.grpc` says."""


class Ports(BaseModel):
    """Every port that is known before the servers start. The descriptions are for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    http: int = Field(description="ingest over HTTP (HAProxy)")
    https: int = Field(0, description="ingest over HTTPS (TLS front)")  # plans of an earlier version have none
    s3: int = Field(description="S3 (SeaweedFS)")
    dashboard: int = Field(description="Ray dashboard and Jobs API")
    gcs: int = Field(description="Ray: the cluster's address (GCS)")
    ray_client: int = Field(description="Ray client server")
    node_manager: int = Field(description="Ray node manager")
    object_manager: int = Field(description="Ray object manager")
    agent_http: int = Field(description="Ray dashboard agent, HTTP")
    agent_grpc: int = Field(description="Ray dashboard agent, gRPC")
    runtime_env_agent: int = Field(description="Ray runtime environment agent")
    ray_metrics: int = Field(description="Prometheus: Ray")
    autoscaler_metrics: int = Field(description="Prometheus: Ray autoscaler")
    dashboard_metrics: int = Field(description="Prometheus: Ray dashboard")
    haproxy_metrics: int = Field(description="Prometheus: HAProxy")
    haproxy_stats: int = Field(description="HAProxy statistics page")
    fallback_proxy: int = Field(description="Serve's own proxy, behind HAProxy")
    s3_grpc: int = Field(description="SeaweedFS S3, gRPC")
    master: int = Field(description="SeaweedFS master")
    master_grpc: int = Field(description="SeaweedFS master, gRPC")
    volume: int = Field(description="SeaweedFS volume server")
    volume_grpc: int = Field(description="SeaweedFS volume server, gRPC")
    filer: int = Field(description="SeaweedFS filer")
    filer_grpc: int = Field(description="SeaweedFS filer, gRPC")
    admin: int = Field(description="SeaweedFS admin server")
    first_replica: int = Field(description=f"Serve's replicas, the first of {REPLICA_PORTS} ports")

    @property
    def admin_grpc(self) -> int:
        return self.admin + ADMIN_GRPC_OFFSET


def address(port: int) -> str:
    return f"{LOOPBACK}:{port}"


def url(port: int) -> str:
    return f"http://{address(port)}"


def choose_ports(settings: StackSettings, *, randomness: random.Random) -> Ports:
    """Raises `PortTaken` for a port that the settings name, `StackError` where no block is free."""
    asked = {
        "http": settings.http_port,
        "https": settings.https_port,
        "s3": settings.s3_port,
        "dashboard": settings.dashboard_port,
    }
    for name, port in asked.items():
        if port and not is_free(port):
            raise PortTaken(
                f"{address(port)} is taken by another program; "
                f"set {name}_port (FLEETFEED_STACK_{name.upper()}_PORT) to another one, or to 0 for any that is free"
            )
    first = _free_block(randomness, asked=set(asked.values()))
    ports = {name: asked.get(name) or first + place for place, name in enumerate(Ports.model_fields)}
    return Ports.model_validate(ports)


def is_free(port: int) -> bool:
    """Whether a server could listen on it; connections of an earlier server that still time out do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _free_block(randomness: random.Random, *, asked: set[int]) -> int:
    """The first port of a block that is free altogether; a random one, so that stacks started at once differ."""
    for first in randomness.sample(BLOCKS, len(BLOCKS)):
        block = range(first, first + BLOCK)
        offset = range(first + ADMIN_GRPC_OFFSET, first + ADMIN_GRPC_OFFSET + BLOCK)
        if asked.isdisjoint((*block, *offset)) and all(is_free(port) for port in (*block, *offset)):
            return first
    raise StackError(f"no {BLOCK} consecutive ports between {BLOCKS[0]} and {BLOCKS[-1]} are free on {LOOPBACK}")
