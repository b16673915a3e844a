"""The ingest application for Serve's own proxy, which `ingest_serve.deployment` refuses: it bounds no body."""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve

from dataset_catalog.storage import Storage
from ingest_serve.app import create_app
from ingest_serve.deployment import keep_replica_port_private
from ingest_serve.settings import IngestSettings


def build_app(_arguments: dict[str, str] | None = None) -> serve.Application:
    """The same application with the same settings, without what only works behind HAProxy."""
    storage, settings = Storage.open(), IngestSettings()

    def build_asgi() -> FastAPI:
        keep_replica_port_private()
        return create_app(storage, settings)

    deployment = serve.deployment(
        serve.ingress(build_asgi)(),
        name="ingest",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
    )
    return deployment.bind()
