"""A Serve application that says what reaches a replica."""

from __future__ import annotations

import os

from fastapi import FastAPI
from ray import serve

api = FastAPI()


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(api)
class Small:
    @api.get("/environment")
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("FLEETFEED_")}


def build() -> serve.Application:
    return Small.bind()
