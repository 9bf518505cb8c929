import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from faulty_s3 import FaultyS3

TESTS = Path(__file__).parent
SUPPORT = TESTS / "support"

# Ray's workers inherit this environment. They must find scenarios.py as the tests do. Without the
# other variables, a local cluster would write a token into the home directory and report its use.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")])
)
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests in tests/integration or with a server, so that no test can forget to."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "bucket" in fixtures or item.path.is_relative_to(TESTS / "integration"):
            item.add_marker(pytest.mark.integration)
            # `make test-integration` runs these beside those that share a cluster or a server.
            if not {"bucket", "ray_cluster"} & set(fixtures):
                item.add_marker(pytest.mark.own_cluster)


@pytest.fixture(scope="session")
def s3_environment() -> dict[str, str]:
    """Return the environment that points S3 clients at `bucket`. Ray's workers inherit it."""
    if "BAAL_RAY_TEST_S3" in os.environ:  # tests/support/start_radosgw.sh
        return _s3_environment(os.environ["BAAL_RAY_TEST_S3"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return _s3_environment(f"http://127.0.0.1:{port}")


def _s3_environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(scope="module")
def bucket(s3_environment: dict[str, str]) -> Iterator[str]:
    """Yield a bucket in moto's S3, which s3fs and boto3 take for real, or in a given server."""
    import boto3
    import s3fs

    with pytest.MonkeyPatch.context() as patch, _moto(s3_environment["AWS_ENDPOINT_URL"]):
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def _moto(endpoint: str) -> Iterator[None]:
    if "BAAL_RAY_TEST_S3" in os.environ:
        yield
        return
    port = endpoint.rsplit(":", 1)[1]
    server = subprocess.Popen(
        [sys.executable, SUPPORT / "s3_server.py", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while server.poll() is None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", int(port))).close()
                break
            time.sleep(0.05)
        assert server.poll() is None, (
            "moto's server has ended; tests/support/s3_server.py says why"
        )
        yield
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def faulty_s3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Yield a proxy to `bucket` that makes faults. No client retries, so every fault counts."""
    import s3fs

    server = FaultyS3(os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()


@pytest.fixture(params=["local", "file://", "memory://", "s3://"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return an empty folder on each kind of store."""
    if request.param == "local":
        return str(tmp_path / "é folder #1")
    if request.param == "s3://":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return f"{request.param}{tmp_path}"
