"""Tests of clusters that cannot be joined: real ports, a real head, and processes of their own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray.core.generated.gcs_service_pb2 import InternalKVPutRequest
from ray.core.generated.gcs_service_pb2_grpc import InternalKVGcsServiceStub

from baal_ray.connection import check_cluster
from baal_ray.errors import ClusterError
from clusters import Head, free_ports, start_head, stop

JOIN = """
from baal_ray.connection import connect
from baal_ray.errors import in_plain_words
with in_plain_words():
    connect(log_to_driver=False)
print("joined")
"""


def join(**environment: str) -> str:
    """Connect in a process of its own, and return what it prints, which is no traceback."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", JOIN],
        env=kept | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "Traceback" not in done.stderr
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_an_address_of_another_kind(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=rf"RAY_ADDRESS is {address}; it must be host:port"):
        check_cluster()


def test_an_address_without_a_port(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(ClusterError, match="RAY_ADDRESS is head, but no cluster is found there"):
        check_cluster()


def test_a_port_that_nobody_listens_on(monkeypatch):
    (port,) = free_ports(1)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(ClusterError, match=rf"at RAY_ADDRESS=127.0.0.1:{port} .* refused.*unset"):
        check_cluster()


def test_a_port_that_accepts_and_is_silent(monkeypatch):
    monkeypatch.setattr("baal_ray.connection._ANSWER_SECONDS", 1)
    with socket.create_server(("", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ClusterError, match=r"\(Deadline Exceeded\); its head must"):
            check_cluster()


def test_a_temporary_folder_whose_sockets_would_have_too_long_paths(tmp_path):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    said = join(TMPDIR=str(folder))
    assert said.startswith(f"Error: TMPDIR is {folder}; it is too long")
    assert said.endswith("Set RAY_TMPDIR to a folder with a short path")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Yield a head that requires a token."""
    home = Path(tempfile.mkdtemp(prefix="baal-", dir="/tmp"))  # a socket's path must be short
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    started = start_head(home, kept | token("right") | {"HOME": str(home)})
    try:
        yield started
    finally:
        stop(started.process)
        shutil.rmtree(home, ignore_errors=True)


def token(value: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": value.ljust(32, "-")}


@pytest.mark.integration
@pytest.mark.own_cluster
def test_a_head_that_requires_a_token_and_one_of_other_versions(head, tmp_path):
    # One test covers it all, because a head takes seconds to start.
    where = {"RAY_ADDRESS": head.address, "HOME": str(tmp_path)}
    assert "requires a token; the one that was sent is wrong, or there is none" in join(**where)
    assert "requires a token; the one that was sent is wrong" in join(**where, **token("wrong"))
    assert "there is no token to send" in join(**where, RAY_AUTH_MODE="token")
    assert join(**where, **token("right")).startswith("joined")

    versions = {"ray_version": "2.9.3", "python_version": "3.9.1"}
    put(head.address, json.dumps(versions).encode())
    said = join(**where, **token("right"))
    assert "runs Ray 2.9.3 and Python 3.9.1, but this process Ray" in said


def put(address: str, metadata: bytes) -> None:
    """Overwrite what the head says of its versions, as a head of other versions would say it."""
    with init_grpc_channel(address) as channel:
        InternalKVGcsServiceStub(channel).InternalKVPut(
            InternalKVPutRequest(
                namespace=KV_NAMESPACE_CLUSTER,
                key=CLUSTER_METADATA_KEY,
                value=metadata,
                overwrite=True,
            ),
            metadata=[("authorization", f"Bearer {token('right')['RAY_AUTH_TOKEN']}")],
            timeout=10,
        )
