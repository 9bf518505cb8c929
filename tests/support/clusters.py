"""Ray clusters started from the command line, as users start them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A head on this machine.

    Attributes:
        process: Process that keeps the head up.
        address: Address of the cluster, for drivers and nodes.
        dashboard: URL of the dashboard.
    """

    process: subprocess.Popen[bytes]
    address: str
    dashboard: str


def start_head(home: Path, environment: Mapping[str, str], *options: str) -> Head:
    """Start Ray, again if it gives up. A busy machine makes it do so after 30 seconds."""
    for attempt in range(3):
        gcs, dashboard, client, agent = free_ports(4)
        log = home / f"start-{attempt}.log"
        with log.open("wb") as output:
            head = subprocess.Popen(
                [
                    *(BIN / "ray", "start", "--head", "--block", f"--temp-dir={home}/{attempt}"),
                    *(f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2"),
                    f"--ray-client-server-port={client}",
                    f"--dashboard-agent-listen-port={agent}",
                    *("--min-worker-port=0", "--max-worker-port=0"),
                    "--object-store-memory=200000000",
                    *options,
                ],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        while head.poll() is None:
            if "Ray runtime started" in log.read_text():
                return Head(head, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}")
            time.sleep(0.2)
        stop(head)
    pytest.fail(f"Ray did not start: {log.read_text()}")


def stop(node: subprocess.Popen[bytes]) -> None:
    """End a node and all that it started, which is in its process group."""
    node.terminate()
    with suppress(subprocess.TimeoutExpired):
        node.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on. They are all held at once, so they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
