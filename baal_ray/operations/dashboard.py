"""Whom Ray's dashboard answers: it runs whatever code it is sent."""

import ipaddress
import socket
import urllib.error
import urllib.request
from typing import Literal
from urllib.parse import urlsplit

from ray._private.services import get_webui_url_from_internal_kv

from baal_ray.cluster import connect

Answers = Literal["nobody", "this machine", "holders of the token", "everybody", "unknown"]

_ANSWER_SECONDS = 5


def dashboard_answers() -> tuple[str, Answers]:
    """The dashboard's address, and whom it answers, found out by asking it without a token.

    Ray says no more of how it was started than the address. What stands before the dashboard, such
    as a firewall, is not seen.
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
    """Where other machines would ask, None if nowhere.

    A dashboard that listens everywhere is registered at its node's address; on a node that knows
    itself as 127.0.0.1, which is a cluster of one machine, that says nothing.
    """
    url = urlsplit(f"//{registered}")
    host = url.hostname or ""
    loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    return _own_address() if loopback else host, url.port


def _own_address() -> str | None:
    """This machine's address on its network; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _status(url: str) -> int | None:
    """The HTTP status of a request from nobody in particular, None where nothing answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=_ANSWER_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
