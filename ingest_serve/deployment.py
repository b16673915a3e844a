"""The ingest application as a Ray Serve deployment, and the reads as another; nothing else here imports Ray.

Robots reach it through HAProxy (`RAY_SERVE_ENABLE_HA_PROXY=1`), which sends a request straight to a replica. Serve
itself obeys a client's `x-request-timeout-seconds`: the TLS proxy in front takes that header away.
"""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve._private import constants
from ray.serve._private import replica as replica_module
from ray.serve.schema import LoggingConfig

from dataset_catalog.storage import Storage
from ingest_serve.app import create_app
from ingest_serve.bucket import Bucket
from ingest_serve.read_settings import ReadSettings
from ingest_serve.reads_app import create_reads
from ingest_serve.relay import Messages, Relay, messages
from ingest_serve.settings import IngestSettings

NAME, READS = "ingest", "reads"


def build_app(_arguments: dict[str, str] | None = None) -> serve.Application:
    """The application, for `serve run ingest_serve.deployment:build_app` too, which insists on a parameter.

    Settings come from the environment of whoever builds it, and travel to the replicas.
    """
    storage, settings, read_settings = Storage.open(), IngestSettings(), ReadSettings()
    Bucket.open(storage)  # a lake that cannot take uploads is refused here, not in a replica

    def build_asgi() -> FastAPI:
        keep_replica_port_private()
        read_bodies_on_demand()
        return create_app(storage, settings, reader=Relay(_ask_the_reads))

    reads = _reads_deployment(read_settings).bind(storage, read_settings)
    return _deployment(serve.ingress(build_asgi)(), settings).bind(reads)


class Reads:
    """What researchers read, in processes of their own: cutting video never holds up an upload."""

    def __init__(self, storage: Storage, settings: ReadSettings) -> None:
        keep_replica_port_private()
        self._app = create_reads(storage, settings)

    async def answer(self, scope: dict[str, Any]) -> Messages:
        """The messages of the answer to one request."""
        async with contextlib.aclosing(messages(self._app, scope)) as found:
            async for message in found:
                yield message


async def _ask_the_reads(scope: dict[str, Any]) -> Messages:
    """The same through the handle. By gRPC, whatever the cluster's default: a stream of objects knows no brake."""
    handle = serve.get_deployment_handle(READS).options(stream=True, _by_reference=False)
    found = handle.answer.remote(scope)
    try:
        async for message in found:
            yield message
    finally:
        found.cancel()


def _reads_deployment(settings: ReadSettings) -> serve.Deployment:
    return serve.deployment(
        Reads,
        name=READS,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_ongoing_requests,
    )


def _deployment(ingress: type, settings: IngestSettings) -> serve.Deployment:
    return serve.deployment(
        ingress,
        name=NAME,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        graceful_shutdown_timeout_s=settings.graceful_shutdown_s,
        logging_config=LoggingConfig(log_level="WARNING"),  # a line of Serve's for every upload costs as much as 50 kB
    )


def keep_replica_port_private() -> None:
    """Have this replica's internal gRPC server listen on the node's own address alone.

    Serve 2.60 binds it to all interfaces, without a setting, and it unpickles what it is sent: whoever reached the port
    would run code. Called in the replica before the server starts; its clients use the node's address anyway.
    """
    bind = replica_module.add_port_to_grpc_server

    def bind_to_node(server: Any, address: str) -> int:
        return int(bind(server, address.replace("[::]", ray.util.get_node_ip_address())))

    replica_module.add_port_to_grpc_server = bind_to_node


def read_bodies_on_demand() -> None:
    """Have this replica's requests read from their connections only what the application asks for.

    Serve 2.60 otherwise puts what comes of a body into a queue without end, beside the application, to notice a client
    that goes; and tells a client to continue that the application would refuse. `RuntimeError` where Serve cannot do
    without the queue: with user code on a thread of its own, or behind the Python proxy.
    """
    if constants.RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD or not constants.RAY_SERVE_ENABLE_DIRECT_INGRESS:
        raise RuntimeError(
            "set RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1: else bodies are not bounded"
        )
    replica_module.parse_disconnect_disabled_header = lambda _headers: True
