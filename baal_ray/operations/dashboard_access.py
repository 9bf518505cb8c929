"""The check of who can reach Ray's dashboard, which executes any code it is sent."""

import ipaddress
import socket
import urllib.error
import urllib.request
from typing import Literal
from urllib.parse import urlsplit

from ray._private.services import get_webui_url_from_internal_kv

from baal_ray.connection import connect

Answers = Literal["nobody", "this machine", "holders of the token", "everybody", "unknown"]

_ANSWER_SECONDS = 5


def dashboard_answers() -> tuple[str, Answers]:
    """Return the dashboard's address, and who can use it without a token.

    Ray reports the dashboard's address, but not how the dashboard was started, so the function
    sends it a request. Anything in front of the dashboard, such as a firewall, goes unnoticed.
    """
    connect()
    registered = get_webui_url_from_internal_kv()
    if not registered:
        return "", "nobody"
    host, port = _seen_from_outside(registered)
    if host is None:
        return registered, "this machine"
    match _status(f"http://{host}:{port}/api/version"):
        case 200:
            return f"{host}:{port}", "everybody"
        case 401 | 403:
            return f"{host}:{port}", "holders of the token"
        case None if host not in registered:
            return registered, "this machine"
    return f"{host}:{port}", "unknown"


def _seen_from_outside(registered: str) -> tuple[str | None, int | None]:
    """Return the host and port that other machines would connect to.

    The host is None if there is none.

    A dashboard that listens on all interfaces is registered at its node's address. In a cluster
    of one machine the node knows itself as 127.0.0.1, and then the registered address does not
    say whether other machines can reach the dashboard.
    """
    url = urlsplit(f"//{registered}")
    host = url.hostname or ""
    loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    return _own_address() if loopback else host, url.port


def _own_address() -> str | None:
    """Return this machine's address on its network, without sending a packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _status(url: str) -> int | None:
    """Return the HTTP status of a request without a token, or None if nothing answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=_ANSWER_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
