import time
from concurrent.futures import ProcessPoolExecutor
from http.client import HTTPConnection
from multiprocessing import get_context

import pyarrow as pa
import pytest
import s3fs

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest
from baal_ray.storage.race_check import check_conditional_writes, race
from faulty_s3 import FaultyS3, _Handler

BATCH = pa.table({"id": ["a"]})

# Copies in a cluster take time to write. Without a delay, one machine is often too quick.
_SECONDS_TO_WRITE = 0.05


class LooksBeforeItWrites(_Handler):
    """A store that looks for the file before it writes, as OpenStack Swift does.

    Another process may write the file in between.
    """

    def do_PUT(self):
        upstream = HTTPConnection(self.server.upstream)
        upstream.request("HEAD", self.path)
        there = upstream.getresponse().status != 404  # 403 to a stranger
        upstream.close()
        time.sleep(_SECONDS_TO_WRITE)
        if there and self.headers["If-None-Match"]:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response_only(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.do_GET()


@pytest.fixture(params=[_Handler, LooksBeforeItWrites], ids=["no conditions", "looks first"])
def sloppy(request, bucket, s3_environment, monkeypatch):
    """Yield the bucket behind a gateway that ignores If-None-Match, always or only in a race."""
    gateway = FaultyS3(s3_environment["AWS_ENDPOINT_URL"], strip=frozenset({"if-none-match"}))
    gateway.RequestHandlerClass = request.param
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"{bucket}/sloppy"
    s3fs.S3FileSystem.clear_instance_cache()
    gateway.shutdown()
    gateway.server_close()


@pytest.mark.parametrize("sloppy", [LooksBeforeItWrites], indirect=True)
def test_looking_first_is_right_as_long_as_nobody_races(sloppy):
    assert storage.create_if_absent(f"{sloppy}/a", b"1")
    assert not storage.create_if_absent(f"{sloppy}/a", b"2")
    storage.delete(f"{sloppy}/a")


def test_a_disk_passes_and_is_left_as_it_was(tmp_path):
    check_conditional_writes(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_s3_passes_and_is_left_as_it_was(bucket):
    check_conditional_writes(f"{bucket}/races")
    assert storage.list_files(bucket) == []
    assert not storage.exists(f"{bucket}/races")


def test_a_store_without_conditional_writes_is_refused(sloppy):
    with pytest.raises(StorageError, match=r"sloppy is in a store where \d writers created"):
        check_conditional_writes(sloppy)
    assert not storage.exists(sloppy)


def test_processes_find_out_too(sloppy):
    # `baal-ray doctor` runs the same race.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as racers:
        winners = sum(racers.map(race, [f"{sloppy}/a"] * 2))
    storage.delete(f"{sloppy}/a")
    assert winners > 1


def test_the_first_commit_refuses_such_a_store_and_writes_nothing(sloppy):
    manifest = Manifest(f"{sloppy}/manifest")
    with pytest.raises(StorageError, match="two jobs could commit the same round"):
        manifest.acquire(BATCH, "r")
    assert manifest.version == -1
    assert not storage.exists(sloppy)


def test_the_first_commit_accepts_s3(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert Manifest(f"{bucket}/manifest").acquire(BATCH, "r") == 1
