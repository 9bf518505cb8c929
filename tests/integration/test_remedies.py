"""Tests of remedies for real faults: full and read-only disks, servers that refuse or are gone."""

import os
import resource
import signal

import pyarrow as pa
import pytest
import s3fs

from answering import answering
from baal_ray import storage
from baal_ray.config import PoolConfig
from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest
from baal_ray.pool import list_pool
from baal_ray.storage.parquet import open_parquet
from disks import fill, mounted

SECRET = "c4n4ry-session-token"
ROWS = pa.table({"id": ["a"]})


def told(act, *arguments):
    with pytest.raises(StorageError) as caught:
        act(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_full_disk(tmp_path):
    with mounted(tmp_path) as disk:
        uri = f"{disk}/round.json"
        storage.publish(uri, b"old")
        Manifest(f"{disk}/manifest").acquire(ROWS, "1")
        files = sorted(os.listdir(disk))
        for act in (storage.publish, storage.create_if_absent):
            message = told(act, uri if act == storage.publish else f"{disk}/new", b"x" * 2**21)
            assert f"{disk}/" in message
            assert "No space left on device. Free some space there" in message
        assert sorted(os.listdir(disk)) == files
        assert storage.read(uri) == b"old"
        fill(f"{disk}/rest")
        manifest = Manifest(f"{disk}/manifest")
        message = told(manifest.acquire, pa.table({"id": ["b"]}), "2")
        assert f"the manifest {disk}/manifest cannot be written" in message
        assert message.endswith("Free some space there or add more, then run this again.")
        assert manifest.ids().to_pylist() == ["a"]


def test_a_limit_on_the_size_of_files(tmp_path):
    storage.publish(str(tmp_path / "a"), b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        message = told(storage.publish, str(tmp_path / "a"), b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "File too large. Free some space there" in message
    assert os.listdir(tmp_path) == ["a"]
    assert storage.read(str(tmp_path / "a")) == b"old"


def test_a_disk_that_is_mounted_read_only(tmp_path):
    with mounted(tmp_path, "ro") as disk:
        for act in (storage.publish, storage.create_if_absent):
            assert "It is mounted read-only" in told(act, f"{disk}/a", b"x")
        message = told(Manifest(f"{disk}/manifest").acquire, ROWS, "1")
        assert f"the manifest {disk}/manifest" in message
        assert "It is mounted read-only" in message


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anything")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "shut").mkdir(mode=0)
    message = told(storage.publish, str(tmp_path / "shut" / "a"), b"x")
    assert "needs permission to read and write there" in message


def test_a_file_that_is_gone():
    for act in (storage.read, read_parquet):
        assert told(act, "/nowhere/a.parquet").endswith("or restore what was there.")


def read_parquet(uri):
    with open_parquet(uri):
        pass


def write(uri):
    storage.publish(uri, b"x")


def read_manifest(uri):
    return Manifest(uri, storage_options={"max_retries": "0"}).version


ACTS = [storage.read, read_parquet, write, read_manifest]


@pytest.fixture
def s3(monkeypatch):
    """Return a function that sets the environment of all S3 clients, their only credentials."""

    def at(endpoint, **credentials):
        given = {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_SESSION_TOKEN": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        } | credentials
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    yield at
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("act", [*ACTS, storage.exists, storage.list_files])
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://nowhere.invalid"])
def test_a_store_that_nobody_answers_for(s3, act, endpoint):
    s3(endpoint)
    message = told(act, "s3://bucket/a")
    assert "s3://bucket/a" in message
    assert "The store does not respond" in message


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (400, "ExpiredToken", "renew them in the environment"),
        (403, "InvalidAccessKeyId", "are the right ones"),
        (403, "SignatureDoesNotMatch", "are the right ones"),
        (403, "AccessDenied", "may read and write there"),
    ],
)
def test_credentials_that_a_store_refuses(s3, act, status, code, remedy):
    # S3 repeats an expired token in its answer.
    body = (
        f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>No.</Message>'
        f"<Token-0>{SECRET}</Token-0></Error>"
    )
    with answering(status, body.encode()) as server:
        s3(server.url)
        message = told(act, "s3://bucket/a")
    assert "s3://bucket/a" in message
    assert remedy in message
    assert SECRET not in message


def test_credentials_that_are_missing(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    s3("http://127.0.0.1:9")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    for act in (storage.read, read_parquet, write, storage.exists):
        message = told(act, "s3://bucket/a")
        assert "No credentials were found: put them in the environment" in message


def test_a_web_server_that_refuses_or_sends_elsewhere():
    with answering(403, b"no") as server:
        message = told(storage.read, f"{server.url}/a.jpg?sig={SECRET}")
        assert "are the right ones" in message
        assert SECRET not in message
    with answering(200, b"evil") as evil, answering(302, b"", Location=evil.url) as server:
        uri = f"{server.url}/a.parquet?sig={SECRET}"
        for read in (storage.read, lambda uri: storage.read_at_most(uri, 100), read_parquet):
            message = told(read, uri)
            assert SECRET not in message
        assert "redirects are not followed" in told(storage.read, uri)
        with pytest.raises(StorageError, match="redirects are not followed"):
            list_pool(PoolConfig(uri=f"{server.url}/a.parquet"), "")
        assert server.requests > 0
        assert evil.requests == 0
