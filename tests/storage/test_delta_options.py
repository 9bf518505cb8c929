"""Tests of one environment for all clients, by what each of them sends to a server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import s3fs

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest
from baal_ray.storage.delta_options import delta_options


class _Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        signed = self.headers["Authorization"]
        self.seen.append((signed.split(", ")[0], self.headers["X-Amz-Security-Token"]))
        self.send_error(403)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Yield a server that refuses everything, and records who signed how."""
    _Handler.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


def test_all_clients_sign_by_the_same_variables(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "our-key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "our-token",
        "AWS_DEFAULT_REGION": "eu-north-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    for client in (
        lambda: storage.read("s3://bucket/file"),
        lambda: pyarrow_reads("s3://bucket/file"),
        lambda: Manifest("s3://bucket/manifest").ids(),
    ):
        _Handler.seen = []
        with pytest.raises((StorageError, OSError)):
            client()
        for signed, token in _Handler.seen:
            algorithm, key, _, region, service, _ = signed.replace("=", "/").split("/")
            assert algorithm == "AWS4-HMAC-SHA256 Credential"
            assert (key, region, service, token) == ("our-key", "eu-north-1", "s3", "our-token")
        assert _Handler.seen


def pyarrow_reads(uri: str) -> None:
    fs, path = storage.arrow_filesystem(uri)
    fs.open_input_file(path).read()


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {}),
        ({"AWS_ENDPOINT_URL": "https://s3.example.org"}, {}),
        ({"AWS_ENDPOINT_URL": "http://minio:9000"}, {"AWS_ALLOW_HTTP": "true"}),
        ({"AWS_ENDPOINT_URL_S3": "http://minio:9000"}, {"AWS_ALLOW_HTTP": "true"}),
        ({"AWS_MAX_ATTEMPTS": "1"}, {"max_retries": "0"}),
        ({"AWS_MAX_ATTEMPTS": "many"}, {}),
    ],
)
def test_only_what_delta_would_take_otherwise_is_translated(
    environment: dict[str, str], options: dict[str, str]
) -> None:
    assert delta_options(environment | {"AWS_SECRET_ACCESS_KEY": "secret"}) == options
